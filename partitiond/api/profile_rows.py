"""Caches the JSON of each profile, so that lists of thousands are joined, not encoded anew."""

import asyncio
from collections.abc import Sequence

from partitiond.core.profile.record import Profile
from partitiond.core.views.lists import ProfileView
from partitiond.serde import to_json_bytes


class ProfileRows:
    """Encodes lists of `ProfileView` as JSON, and keeps some 5 KB for each listed profile."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Profile, bytes]] = {}

    async def of(self, views: Sequence[ProfileView], *, complete: bool) -> bytes:
        """Return the list as UTF-8. A thread builds it, which is safe: the values are immutable.

        Args:
            views: the profiles to list.
            complete: there are no other profiles, so the JSON of all others is dropped.
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
