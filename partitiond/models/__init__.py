"""Turns names of models into files on disk.

`catalog` names the known models and turns what a user writes into a source. `resolver` turns a
spec into a local folder that the engine loads, by one of four sources:

- hub: the Hugging Face hub, at a pinned revision (`hub`);
- folder: a folder that exists already;
- package: a Python package that carries the weights as GGUF (`package`), converted once;
- config: only the architecture, with dummy weights and a tokenizer made on the spot (`dummy`).

No code that comes with a model is ever run.
"""
