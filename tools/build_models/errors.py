"""The one error of this program: something a person can fix, said in a sentence."""


class BuildError(Exception):
    """A model cannot be built; the text names the file, what is wrong and the fix."""
