"""What tokens are called where they are shown one by one: a token may be half a character, a name never is. Pure."""

from gateway.tokenizers.vocabulary import Vocabulary


class TokenNames:
    """Names of a vocabulary's tokens, as OpenAI gives them: text, or bytes in hexadecimal where they are no text.

    Args:
        vocabulary: What each token stands for.
        as_ids: Whether tokens are named "token_id:5" instead, so that no two have the same name.
    """

    def __init__(self, vocabulary: Vocabulary, *, as_ids: bool = False) -> None:
        self._vocabulary = vocabulary
        self._as_ids = as_ids

    def bytes_of(self, token_id: int) -> list[int]:
        """A token's bytes; a special token's are those of its name."""
        return list(self._vocabulary.bytes_of(token_id))

    def name(self, token_id: int, *, bytes_prefix: str = "") -> str:
        r"""A token's name.

        Args:
            token_id: May be beyond the vocabulary, as padded models have them.
            bytes_prefix: What comes before bytes such as "\xf0\x9f".
        """
        data = self._vocabulary.bytes_of(token_id)
        if self._as_ids or not data:
            return f"token_id:{token_id}"
        try:
            return data.decode()
        except UnicodeDecodeError:
            return bytes_prefix + "".join(f"\\x{byte:02x}" for byte in data)
