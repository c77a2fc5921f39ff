"""Whether it is known which engines run on a host: what happened during a search is not."""

from hypothesis import given
from hypothesis import strategies as st

from partitiond.hosts.agents import EngineSearch


@given(st.lists(st.sampled_from(["begins", "ends", "doubt", "note_fall"])))
def test_a_search_tells_nothing_of_what_happened_after_it_began(history: list[str]) -> None:
    searches, news = EngineSearch(), {"any": True, "fall": False}
    assert not searches.is_done
    began: list[tuple[int, dict[str, bool]]] = []
    for step in history:
        if step == "begins":
            began.append((searches.reasons, dict.fromkeys(news, False)))
        elif step == "ends" and began:
            reasons, missed = began.pop(0)
            searches.note_search(reasons)
            news = {kind: news[kind] and missed[kind] for kind in news}
        elif step in ("doubt", "note_fall"):
            getattr(searches, step)()
            for seen in (news, *(missed for _, missed in began)):
                seen["any"], seen["fall"] = True, seen["fall"] or step == "note_fall"
        assert (searches.is_done, searches.after_fall) == (not news["any"], news["fall"])
