"""The store answers as a plain dictionary would, for all operations in every order."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from partitiond.core.errors import ConflictError, NotFoundError
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import Demand, ModelSource, ModelSpec, Slo, SourceKind
from partitiond.core.model.workload import Workload
from partitiond.store import Store, open_store

names = st.sampled_from(["a", "b", "c"])
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
specs = st.builds(
    ModelSpec,
    name=names,
    source=st.builds(ModelSource, st.sampled_from(SourceKind), text),
    workload=st.builds(Workload, st.integers(1, 9999), st.integers(1, 9999)),
    slo=st.none() | st.builds(Slo, st.floats(1e-6, 1e6), st.floats(1e-6, 1e6)),
    demand=st.builds(Demand, st.none() | st.floats(1e-6, 1e6)),
    min_replicas=st.integers(0, 3),
    auto=st.booleans(),
)


class StoreMachine(RuleBasedStateMachine):
    """Models and counters against a dictionary; the store is closed and opened at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.file = Path(self.folder.name) / "s.sqlite3"
        self.store: Store = open_store(self.file)
        self.expected: dict[str, ModelRecord] = {}
        self.counter = 0

    @rule(spec=specs)
    def add(self, spec: ModelSpec) -> None:
        record = ModelRecord(spec, 1, "t", "t")
        if spec.name in self.expected:
            with pytest.raises(ConflictError):
                self.store.add_model(record)
        else:
            self.store.add_model(record)
            self.expected[spec.name] = record

    @rule(spec=specs, stale=st.booleans())
    def change(self, spec: ModelSpec, stale: bool) -> None:
        old = self.expected.get(spec.name)
        version = (old.version if old else 1) + (1 if stale else 0)
        record = ModelRecord(spec, version + 1, "t", "t2")
        if old is None or stale:
            with pytest.raises(NotFoundError if old is None else ConflictError):
                self.store.update_model(record, expected_version=version)
        else:
            self.store.update_model(record, expected_version=version)
            self.expected[spec.name] = record

    @rule(name=names)
    def remove(self, name: str) -> None:
        if self.expected.pop(name, None) is None:
            with pytest.raises(NotFoundError):
                self.store.remove_model(name)
        else:
            self.store.remove_model(name)

    @rule()
    def count(self) -> None:
        self.counter += 1
        assert self.store.next_counter("c") == self.counter

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = open_store(self.file)

    @rule()
    def crash(self) -> None:
        """A process that dies closes nothing: what it committed is there all the same."""
        left_open, self.store = self.store, open_store(self.file)
        assert list(left_open.models()) == list(self.store.models())
        left_open.close()

    @invariant()
    def models_agree(self) -> None:
        assert list(self.store.models()) == [self.expected[name] for name in sorted(self.expected)]
        for name in "abc":  # as if read anew, though all others were read before
            if name in self.expected:
                assert self.store.model(name) == self.expected[name]
            else:
                with pytest.raises(NotFoundError, match=f"no model {name}"):
                    self.store.model(name)

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=15)
