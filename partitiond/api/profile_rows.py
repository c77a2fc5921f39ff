"""Profiles as JSON, made once of each and kept: a list of thousands is joined, not made anew."""

import asyncio
from collections.abc import Sequence

from partitiond.core.profile import Profile
from partitiond.ports import ProfileView
from partitiond.serde import to_json_bytes


class ProfileRows:
    """Lists of `ProfileView` as JSON; it keeps some 5 KB of each profile that was listed."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Profile, bytes]] = {}

    async def of(self, views: Sequence[ProfileView], *, complete: bool) -> bytes:
        """The list, in UTF-8. It is made in a thread, of values that do not change.

        Args:
            views: what is listed.
            complete: there are no other profiles, so that no other's JSON is kept.
        """
        return await asyncio.to_thread(self._list, views, complete=complete)

    def _list(self, views: Sequence[ProfileView], *, complete: bool) -> bytes:
        known = {} if complete else dict(self._known)
        rows = []
        for view in views:
            body = self._body(view.profile)
            known[view.profile.id] = view.profile, body
            rows.append(b'{"profile":%b,"stale":%b}' % (body, to_json_bytes(view.stale)))
        self._known = known
        return b"[%b]" % b",".join(rows)

    def _body(self, profile: Profile) -> bytes:
        found = self._known.get(profile.id)
        return found[1] if found is not None and found[0] is profile else to_json_bytes(profile)
