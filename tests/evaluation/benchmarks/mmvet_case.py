"""A small MM-Vet with nasty answers and a judge with bad manners, and what the evaluator made of them.

REQUESTS, SCORES, FIGURES and those of GRADED come from running mm-vet_evaluator.py (github.com/yuweihao/MM-Vet at
acde843, Python 3.11, openai 3.52, pandas 3.1) on this data against a scripted endpoint.
"""

from __future__ import annotations

QUESTIONS: dict[str, tuple[str, str, list[str]]] = {
    "v1_0": ("What is x in the equation?", "-1<AND>-5", ["ocr", "math"]),
    "v1_1": ("What is d?", "0.75<OR>=0.75<OR>3/4", ["math", "ocr"]),
    "v1_2": ("On the right desk, what is to the left of the laptop? ", "table lamp <OR> desk lamp", ["rec", "spat"]),
    "v1_5": ("Write a report.\n\nYou should write at least 150 words.", "Long | text\nof two lines", ["gen", "ocr"]),
    "v1_7": ("Café?", "<AND>", ["rec"]),
    "v1_11": ("Who is this?", "a<or>b<AND ><AND>c", ["rec", "know"]),
    "v1_13": ("Why?", " yes ", ["know", "gen", "rec"]),
    "v1_100": ("日本語は?", "<OR><OR>", ["gen", "know", "rec"]),
    "v1_217": ("Is it\tso?", "{answer} \\n", ["rec", "rec"]),
    "v1_20": ("How many?", "4", ["rec"]),
    "v1_21": ("How much?", "$5", ["ocr"]),
    "v1_22": ("Where?", "there", ["rec"]),
}
"""Question, answer, capabilities; in the order of the file."""

ANSWERS = {
    "v1_0": "x = -1 | 0.5\nWhat is x? | -1",
    "v1_1": "",
    "v1_2": "  lamp \n",
    "v1_5": "One.\r\n\tTwo\u2028three \u200b\u00a0",
    "v1_7": "<AND> and <OR>",
    "v1_11": "'quoted' \"double\" \\ back",
    "v1_13": " | ",
    "v1_100": "\U0001f600 ｆｕｌｌ",
    "v1_217": "nan",
    "v1_20": "four",
    "v1_21": "5",
    "v1_22": "here",
}

REPLIES: dict[str, list[str | None]] = {
    "v1_0": ["0.5"],
    "v1_1": ["Score: 1", " 0.3", "0.3\n0.4", "1.1", "0.6 because"],
    "v1_2": ["0.7\n"],
    "v1_5": ["1.0 |"],
    "v1_7": ["-0.1", None, "", "1/2", "inf", "0.9"],
    "v1_11": ["0,5", "\u0660.\u0665"],
    "v1_13": ["5e-1x", "\t+0.25\u00a0"],
    "v1_100": ["0_1"],
    "v1_217": [None, "-0.0"],
    "v1_20": ["0.1"],
    "v1_21": ["0.2"],
    "v1_22": ["1"],
}
"""What the judge says to the requests about each question, one after the other. The sixth reply is never read."""

GRADED: dict[str, list[float]] = {
    "v1_0": [0.1, 0.2, 0.7],
    "v1_1": [0.3, 0.0, 0.6],
    "v1_2": [1.0, 0.9, 0.05],
    "v1_5": [0.15, 0.45, 0.35],
    "v1_7": [0.0, 0.0, 0.1],
    "v1_11": [0.8, 0.7, 0.7],
    "v1_13": [0.2, 0.25, 0.25],
    "v1_100": [1, 0, 1],
    "v1_217": [0.65, 0.3, 0.3],
    "v1_20": [0.1, 0.1, 0.2],
    "v1_21": [0.4, 0.4, 0.4],
    "v1_22": [0.9, 0.8, 0.9],
}
"""The scores of a grade file of three runs."""

REQUESTS = {
    "v1_0": [
        "458aebf83ba479b5e8b403d2e4522263ad569a8b9ed606cb0df04f6f38c6a80d",
    ],
    "v1_1": [
        "97821e3bb2ba28a7a9b800cb992773ecf146a44269428bdc5a563e1d059999fb",
        "e5efff37b32b707d084d4397b3e75875e707d5c18209435a6ba26efcf55c6c38",
        "208eb039d31c13f51ce16d5f0b1b116d354655eb03f27eaa2eea031727210bc1",
        "16b8dd7b98dbea3ed7ac43b33432ed93c23fa47750eede7b359379ffd447b21f",
        "87986e8c3ee812a3521230914fbe3036936a300b2357bedcfb191afd50cd0b9b",
    ],
    "v1_2": [
        "cdb76ed1665a3400c26140edefcda0389c8ae7a59bbe5d9e04565c697390f796",
    ],
    "v1_5": [
        "344fc0c3261f73e1173194b5b335825a7983d1b57318ede28267b4f705293639",
    ],
    "v1_7": [
        "06d3d173d6da9adaa24c879874b9bd8d639fcfc8998f9d44e0fa18eb180ec706",
        "ddf10a1262bc2a637c0c5fa49fdd21abec948d5b82b48f7ffda11699cc3a516d",
        "f3287fe64b161cfac622bd575c773bf614d329e0e6516e61d0cf4aa60b721b51",
        "3de3326f6747df47337887b744124c8a8814cb6968a12a46b555b3ac72ac9458",
        "fc5d0b94d7e027a46672c3c4fcb910fed67f115c99b6b150dbb107b675418ae0",
        "17c176aef8825f03567dcff0fa411de8ef34d8641358fdb0f86fe45c416ebb5d",
    ],
    "v1_11": [
        "25680d56454a110f48901d990946cb7a468d255b08cd39ceb845466739a56e63",
        "54e3d647cdfe03279614eca3bf9a351b8ab713e48eb8fb66e471bcfa3f34298d",
    ],
    "v1_13": [
        "7b2127f2e722fd341ec886ae43778f8797fffd7662920276d2938800411be162",
        "a7e22e5611a0e97b5e40b4c941933c4491ceac6bfba535090ed9bc7511b7e180",
    ],
    "v1_100": [
        "a9241b4cb188b9e550dea4c9296dd95d58508561a87bf4aa9cc803ee785aaa7e",
    ],
    "v1_217": [
        "af17dd375e3c72e2721be443c3a28a296c938c5dd1b8b9202ba02be638f83a6f",
        "257c16fe0b0eff33b6d58e498a2ee20a6aff30ae2db7b07e059c00ddf168946f",
    ],
    "v1_20": [
        "adf22480a982c4bb48c57d5c43173a4beab186be224e4a1faa2c74f31be7cd15",
    ],
    "v1_21": [
        "744395e55b1a2edf5009aa1e35b5343d9c9b881b0e650dea0e4c19b8907903f6",
    ],
    "v1_22": [
        "2ac1a094b569ffb1755c01707bd99a23daa09fdb42f2a959c5392735592cd13c",
    ],
}
"""sha256 of the JSON of [messages, temperature, max_tokens] (remora.files.digest), request after request."""

SCORES = {
    "v1_0": 0.5,
    "v1_1": 0.6,
    "v1_2": 0.7,
    "v1_5": 1.0,
    "v1_7": 0.0,
    "v1_11": 0.5,
    "v1_13": 0.25,
    "v1_100": 1.0,
    "v1_217": -0.0,
    "v1_20": 0.1,
    "v1_21": 0.2,
    "v1_22": 1.0,
}

FIGURES = {
    "total": 48.8,
    "capability.rec": 44.4,
    "capability.ocr": 57.5,
    "capability.gen": 75.0,
    "capability.know": 58.3,
    "capability.math": 55.0,
    "capability.spat": 70.0,
    "combination.rec": 27.5,
    "combination.ocr_math": 55.0,
    "combination.rec_know_gen": 62.5,
    "combination.rec_spat": 70.0,
    "combination.ocr_gen": 100.0,
    "combination.rec_know": 50.0,
    "combination.ocr": 20.0,
}

FIGURES_OF_GRADED = {
    "total": 42.4,
    "capability.rec": 46.7,
    "capability.ocr": 33.8,
    "capability.gen": 40.6,
    "capability.know": 54.4,
    "capability.math": 31.7,
    "capability.spat": 65.0,
    "combination.rec": 36.2,
    "combination.ocr_math": 31.7,
    "combination.rec_know_gen": 45.0,
    "combination.rec_spat": 65.0,
    "combination.ocr_gen": 31.7,
    "combination.rec_know": 73.3,
    "combination.ocr": 40.0,
}

DEVIATION, RUNS = 5.8, (46.7, 34.2, 46.3)
