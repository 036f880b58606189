"""Models in other projects' layouts: the stock `llava` layout out, llava-hf, TinyLLaVA, Bunny and LLaVA in.

docs/exchange.md says what can be written and read, what is refused, and why.
"""
