"""The demo's data: small pictures with questions, made from PyPI packages, without a hub.

openmoji   emoji drawings on coloured backgrounds: what is it, what kind is it; a quarter of the concepts is held out
easy-vqa   one coloured shape per picture, with the published questions and test split
"""

from remora.demo.build import build_demo

__all__ = ["build_demo"]
