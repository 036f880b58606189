"""The endpoint: OpenAI's chat completions with images, on Ray Serve, following a champion in the registry.

    remora serve                          # or: serve deploy serve/local.yaml, on a running cluster

args.py has the settings, app.py is the Serve application, deploy.py runs it until it is stopped, client.py sends
requests. This module imports nothing: Ray, torch and FastAPI load when app.py or deploy.py need them.
"""
