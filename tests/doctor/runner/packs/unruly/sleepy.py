"""Catches one of its faults, sleeps through the other."""

from ftdoctor.probe import probe


@probe(area="environment")
def sleepy(bench, check):
    import json

    check.equal("number", json.loads("1"), 1)


@sleepy.fault("numbers are doubled", catches=("number",))
def doubled(patch):
    import json

    patch.wrap(json, "loads", lambda original, text: 2 * original(text))


@sleepy.fault("texts are doubled", catches=("text",))
def texts(patch):
    import json

    patch.wrap(json, "dumps", lambda original, value: 2 * original(value))
