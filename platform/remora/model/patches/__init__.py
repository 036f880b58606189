"""Changes to other libraries' modules, one module each, made by supported means. The docstring has the reason; a test
of the same name is in tests/model.

attention packs rows through transformers' attention interface; dropout and activations replace modules
(`set_submodule`, torch's checkpoint wrapper); head is an output head that computes its loss; narrow puts hooks on the
last block during a pass.
"""
