"""The demo's data: small pictures with questions, made from packages, without a hub.

openmoji   emoji drawings on coloured backgrounds: what is it, what kind is it; a quarter of the concepts is held out
easy-vqa   one coloured shape per picture, with the published questions and test split
photos     scenes of photographs that were cut out: what is it, how many, on which side; a quarter is held out
styles     questions about openmoji's concepts as Noto and Twemoji draw them; only a test
"""

from remora.demo.build import build_demo
from remora.demo.photos import build_photos
from remora.demo.styles import build_styles

__all__ = ["build_demo", "build_photos", "build_styles"]
