"""Texts of an enrolment: the consent, suggested sentences, instructions.

Owns the texts only. A consent text is never changed: a new text gets a new version, and the old one
stays, so that each recorded consent refers to its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CONSENT_VERSION = "2026-11"
"""Version of the current consent text."""


CONSENT: Mapping[str, str] = MappingProxyType(
    {
        "2026-11": (
            "whodrives will learn your voice, so that this car can tell when you drive it and set "
            "seat and mirrors for you. A voice is a biometric: it can tell who you are. What is "
            "kept is some thousand numbers made from your voice, your name, your preferences, the "
            "day you were last recognised, and this consent. Voices change; so the car adds "
            "numbers of a few trips in which it was sure of you, and you can see and undo that. It "
            "stays in this car, in one sealed file; the sound itself is not kept, and nothing is "
            "sent to anybody. You can have it erased at any time (`whodrives drivers forget`), and "
            "then the car treats you as it treats everybody. You need not agree: the car drives as "
            "well without."
        ),
    }
)


SENTENCES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "en": (
            "On weekdays I leave home before seven, because the bridge fills up quickly.",
            "Could you turn the heating down a little? My hands are warm enough now.",
            "We once drove for nine hours and saw nothing but yellow fields and blue sky.",
            "Oh no, I forgot the shopping bags again! Let us turn round at the petrol station.",
            "My sister plays the violin badly, but she enjoys every minute of it.",
            "If it rains on Thursday, the children's match moves to the big hall.",
        ),
        "hi": (
            "आज सुबह सड़क खाली थी, इसलिए मैं दफ़्तर बीस मिनट पहले पहुँच गया।",
            "क्या आप खिड़की थोड़ी सी खोल सकते हैं? अंदर काफ़ी गर्मी है।",
            "पिछली गर्मियों में हम पहाड़ों पर गए थे और रोज़ नदी के किनारे टहलते थे।",
            "अरे, मैं तो चाबी घर पर ही भूल आया! चलो, जल्दी वापस चलते हैं।",
            "मेरी नानी हर शाम छत पर बैठकर पुराने गाने गुनगुनाती हैं।",
            "अगले शुक्रवार को बाज़ार बंद रहेगा, तो सब्ज़ियाँ कल ही ले लेंगे।",
        ),
    }
)
"""Suggestions of what to say, by language; neither required nor checked."""


PARKED = (
    "Sit as you drive, with the engine off, doors and windows shut, and the radio silent. Speak as "
    "you do in the car, not to the microphone, in any language, about anything: the way here, the "
    "weather, the week. Ask a question, tell of something that annoyed you, say a sentence softly."
)


ON_THE_ROAD = (
    "Once more on the road: let a passenger press the keys. Drive as usual, radio silent, and "
    "speak as you do when you drive. Noise of the road is welcome now."
)
