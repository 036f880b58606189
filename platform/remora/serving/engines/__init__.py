"""Engines behind the endpoint, each by the protocol in protocol.py: requests in, streams of tokens and text out."""
