"""Text of about so many tokens, without knowing the served model's vocabulary. Pure."""

import random

# Short, frequent words: nearly every vocabulary has each of them as one token, its space included.
_TEXT = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work number night "
    "point home water room mother area money story fact month lot right study book eye job word "
    "business issue side kind head house service friend father power hour game line end member "
    "law car city name team minute idea body back parent face level office door health person art "
    "war history party result change morning reason research girl guy moment air teacher force "
    "order file code test error value path table list type class key data field index cache "
    "block page store load read write open close start stop wait send call run build check find "
    "make take give look use tell ask seem feel try leave put mean keep let begin help talk turn "
    "show hear play move like live believe hold bring happen provide sit stand lose pay meet "
    "include continue set learn lead understand watch follow create speak allow add spend grow"
)
_WORDS = tuple(_TEXT.split())


class Prose:
    """An endless text; two of one seed are equal, and two of different seeds soon differ."""

    def __init__(self, seed: str) -> None:
        self._dice = random.Random(seed)

    def words(self, count: int) -> str:
        """The next ``count`` words (at least one), as a text that ends with a full stop."""
        return " ".join(self._dice.choices(_WORDS, k=max(1, count))) + "."
