"""Fitting tokens to the text that they are told with."""

from collections.abc import Sequence

from realtimed.wire.events import TokenLogprob


def fitted(tokens: Sequence[TokenLogprob], text: str) -> tuple[TokenLogprob, ...]:
    """The tokens such that joined they are `text`, which may begin with more or less white space.

    Text is given or spared a space where it meets other text; tokens of nothing else are left out.
    """
    body = text.lstrip()
    number = next((n for n, one in enumerate(tokens) if one.token.strip()), len(tokens))
    if not body or number == len(tokens):
        return ()
    first = tokens[number]
    space = text[: len(text) - len(body)]
    begun = TokenLogprob(space + first.token.lstrip(), first.logprob)
    return (begun, *tokens[number + 1 :])
