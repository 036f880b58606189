"""What is changed in other people's modules, one module a change: each by means that its library supports, with its
reason in the docstring and a test of the same name in tests/model.

attention packs rows through transformers' attention interface; dropout and activations put modules of their own in
place (`set_submodule`, torch's checkpoint wrapper); head is an output head that makes its loss; narrow hangs hooks on
the last block for the length of a pass.
"""
