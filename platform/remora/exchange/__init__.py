"""Other projects' layouts: export the stock `llava` layout; import llava-hf, TinyLLaVA, Bunny and LLaVA.

docs/exchange.md says what can be written and read, what is refused, and why.
"""
