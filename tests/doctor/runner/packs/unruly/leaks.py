"""Lets out what stands in a variable, everywhere it can, in texts so long that they are cut within it."""

from ftdoctor.probe import probe


@probe(area="environment")
def leaks(bench, check):
    import os
    import warnings

    tokens = os.environ["LEAKED"].split()
    for number, token in enumerate(tokens):
        print("x" * number, token * 2, flush=True)
    long = " ".join(f"{'word ' * (number % 7)}{token}" for number, token in enumerate(tokens * 20))
    for shift in range(40):
        check.note(f"note {shift}", "y" * shift + " " + long)
        warnings.warn("z" * shift + " " + long, stacklevel=1)
    check.label_mask("row", tokens, [True] * len(tokens))
    print(long * 30)
    raise RuntimeError(long)
