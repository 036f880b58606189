"""A language model in vLLM, behind our own vision encoder and connector.

vLLM pins its own torch and transformers, so it runs in a process of its own, by the Python of any environment that has
it (process.py, worker.py). Prompts go there as embeddings, made here from our own token table and connector, so any
composition whose language model vLLM knows can be run. engine.py has the methods of an AnswerEngine.
"""
