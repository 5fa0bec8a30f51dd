"""The one error of this program: something a person can mend, said in a sentence."""


class BuildError(Exception):
    """A model cannot be built; the text names the file, what is wrong and the mend."""
