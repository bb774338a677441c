"""Packing: nothing lost, nothing twice, and no example that sees another, on any family and attention."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftdoctor.errors import DataError, TrainingError
from ftdoctor.training.labels import Encoder
from ftdoctor.training.packed_batches import PackedCollator, packed_collator
from ftdoctor.training.packing import COLUMNS, PackingCounts, best_fit, pack_rows

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]
FAMILIES = ("llama", "qwen3", "mistral", "gemma3", "phi3", "qwen3_moe")
LIMIT = 30


def examples(*lengths):
    """Encoded rows of these lengths, each of tokens of its own; everything is scored."""
    numbers = itertools.count(20)
    ids = [[20 + next(numbers) % 400 for _ in range(length)] for length in lengths]
    return [{"input_ids": row, "labels": list(row)} for row in ids]


def unpacked(row):
    """The examples of a packed row, as tuples of tokens."""
    found, at = [], 0
    for length in row["seq_lengths"]:
        found.append(tuple(row["input_ids"][at : at + length]))
        at += length
    assert at == len(row["input_ids"])
    return found


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, LIMIT), max_size=60))
def test_no_example_is_lost_cut_or_there_twice(lengths):
    """Whatever their lengths; rows are as long as allowed, and positions start again with each example."""
    rows = examples(*lengths)
    packed = pack_rows(rows, LIMIT)

    assert sorted(e for row in packed for e in unpacked(row)) == sorted(tuple(r["input_ids"]) for r in rows)
    for row in packed:
        assert tuple(row) == COLUMNS
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["position_ids"]) <= LIMIT
        assert row["position_ids"] == [p for length in row["seq_lengths"] for p in range(length)]
        starts = [i for i, p in enumerate(row["position_ids"]) if p == 0]
        assert row["labels"] == [-100 if i in starts else token for i, token in enumerate(row["input_ids"])]
    assert pack_rows(rows, LIMIT) == packed


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, LIMIT), max_size=60))
def test_no_two_rows_could_be_one(lengths):
    """Best fit leaves no two rows that are half empty."""
    filled = [sum(lengths[i] for i in row) for row in best_fit(lengths, LIMIT)]

    assert all(a + b > LIMIT for a, b in itertools.combinations(filled, 2))


def test_rows_and_examples_keep_their_order():
    """Of what is packed together the earlier stands first, and rows go by their first example."""
    assert best_fit([10, 25, 10, 5, 30, 10], LIMIT) == [[0, 2, 5], [1, 3], [4]]
    assert best_fit([20, 20, 10, 10], LIMIT) == [[0, 2], [1, 3]]


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, LIMIT), max_size=40), buffer=st.integers(1, 12))
def test_a_stream_is_packed_a_buffer_at_a_time(lengths, buffer):
    """No more is held in memory than that, and nothing is lost between two of them."""
    rows, taken, most = examples(*lengths), [0], [0]

    def stream():
        for row in rows:
            taken[0] += 1
            yield row

    given_out = 0
    packed = []
    for row in pack_rows(stream(), LIMIT, buffer=buffer):
        most[0] = max(most[0], taken[0] - given_out)
        given_out += len(row["seq_lengths"])
        packed.append(row)

    assert sorted(e for row in packed for e in unpacked(row)) == sorted(tuple(r["input_ids"]) for r in rows)
    assert most[0] <= buffer


@pytest.mark.parametrize("kind", ["dataset", "stream"])
def test_datasets_are_packed_in_kind(kind):
    """Columns that have nothing to do with it go."""
    from datasets import Dataset, IterableDataset

    rows = [{**row, "id": "x"} for row in examples(*[7, 12, 20, 3, 9, 15, 28, 1])]
    made = {
        "dataset": lambda: Dataset.from_list(rows),
        "stream": lambda: IterableDataset.from_generator(lambda: iter(rows)),
    }[kind]()
    counts = PackingCounts()
    packed = pack_rows(made, LIMIT, counts=counts)

    assert type(packed) is type(made)
    assert list(packed) == pack_rows(rows, LIMIT)
    assert (counts.examples, counts.rows, counts.tokens) == (8, 4, 95)
    assert str(counts) == "8 examples packed into 4 rows of at most 30 tokens, 79.2% filled"


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (examples(5, LIMIT + 1), "Example 2 has 31 tokens, more than a packed row of 30"),
        ([{"input_ids": [1, 2], "labels": [1]}], "Example 1 has not as many labels as tokens"),
        ([{"input_ids": [1, 2]}], "Example 1 has not as many labels as tokens"),
        ([{"input_ids": [], "labels": []}], "Example 1 has not as many labels as tokens"),
    ],
    ids=["long", "few labels", "no labels", "empty"],
)
def test_what_cannot_be_packed_is_refused(rows, what):
    """Never cut."""
    with pytest.raises(DataError, match=what):
        pack_rows(rows, LIMIT)


def alone(model, ids):
    """Logits of one example by itself, shape (tokens, vocabulary)."""
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def through(model, batch):
    import torch

    with torch.no_grad():
        return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


def largest_difference(model, collator, rows):
    """How far packed logits are from those of each example alone, relative to the largest."""
    logits, worst, largest = through(model, collator(rows)).flatten(0, 1), 0.0, 0.0
    longest = logits.shape[0] // len(rows)
    for number, row in enumerate(rows):
        before = (
            sum(len(r["input_ids"]) for r in rows[:number]) if collator.isolation == "one_row" else number * longest
        )
        for ids in unpacked(row):
            reference = alone(model, list(ids))
            worst = max(worst, float((logits[before : before + len(ids)] - reference).abs().max()))
            largest = max(largest, float(reference.abs().max()))
            before += len(ids)
    return worst / largest


@pytest.mark.parametrize("isolation", ["positions", "mask", "one_row"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_logits_are_those_of_each_example_alone(make_bench, family, attention, isolation):
    """In every way, whichever is chosen; rows of unequal lengths, so that padding is there too."""
    bench = make_bench(family=family, attention=attention)
    model, tokenizer = bench.load(), bench.tokenizer()
    chosen = packed_collator(model, tokenizer)
    collator = packed_collator(model, tokenizer, isolation=isolation)
    rows = pack_rows(examples(9, 14, 5, 3, 11, 1, 17), LIMIT)

    assert chosen.isolation == "positions"
    assert len({len(row["input_ids"]) for row in rows}) > 1
    # Two orders of summation in float32, through two layers.
    assert largest_difference(model, collator, rows) < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packing_by_hand_is_not_so(make_bench, attention):
    """What the other tests would miss otherwise: concatenated, or with the cache on, examples see each other."""
    bench = make_bench(attention=attention)
    model = bench.load()
    rows = pack_rows(examples(9, 14), LIMIT)
    good = PackedCollator(0, "positions")(rows)
    second = alone(model, list(unpacked(rows[0])[1]))
    cases = {
        "concatenated": {"input_ids": good["input_ids"], "attention_mask": good["input_ids"] * 0 + 1},
        "cached": {**good, "use_cache": True},
        "with an attention mask": {**good, "attention_mask": good["input_ids"] * 0 + 1},
    }
    for name, batch in cases.items():
        assert float((through(model, batch)[0, 9:] - second).abs().max()) > 0.1, name


@pytest.mark.parametrize("family", ["mistral", "gemma3", "phi3"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sliding_windows_hold_within_packed_examples(make_bench, family, attention):
    """Also of examples longer than the window; a mask cannot keep the window, and says so."""
    bench = make_bench(family=family, attention=attention)
    config = bench.config()
    config.sliding_window = 8
    model = type(bench.model())(config).eval()
    model.set_attn_implementation(attention)
    tokenizer = bench.tokenizer()
    rows = pack_rows(examples(14, 11, 5, 20), LIMIT)

    assert largest_difference(model, packed_collator(model, tokenizer), rows) < 1e-5
    masked = packed_collator(model, tokenizer, isolation="mask")
    short = pack_rows(examples(8, 7, 5, 8), LIMIT)
    assert largest_difference(model, masked, short) < 1e-5
    for length in (9, 20):
        with pytest.raises(DataError, match=f"An example has {length} tokens, more than the sliding window of 8"):
            masked(pack_rows(examples(5, length), LIMIT))


def test_no_example_is_scored_by_the_one_before_it():
    """Its first token has no label, whoever packed the row; padding has none."""
    rows = [{"input_ids": [5, 6, 7, 8, 9], "labels": [5, 6, 7, 8, 9], "seq_lengths": [2, 3]}, *examples(3)]
    batch = PackedCollator(0, "positions", pad_to_multiple_of=4)(rows)

    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 1, 2, 3, 4]]
    assert batch["labels"].tolist()[0] == [-100, 6, -100, 8, 9, -100, -100, -100]
    assert (batch["labels"][1] != -100).tolist() == [False, True, True] + [False] * 5
    assert batch["input_ids"].tolist()[0] == [5, 6, 7, 8, 9, 0, 0, 0]


def test_flash_attention_is_handed_one_row():
    """Of several rows transformers does not read where examples begin, and they would see each other."""
    from transformers.modeling_flash_attention_utils import _is_packed_sequence

    rows = pack_rows(examples(9, 14, 20), LIMIT)
    one = PackedCollator(0, "one_row")(rows)
    several = PackedCollator(0, "positions")(rows)

    assert one["input_ids"].shape == (1, 43)
    assert _is_packed_sequence(one["position_ids"], batch_size=1)
    assert not _is_packed_sequence(several["position_ids"], batch_size=2)
    assert [e for row in rows for e in unpacked(row)] == unpacked(
        {"input_ids": one["input_ids"][0].tolist(), "seq_lengths": [n for row in rows for n in row["seq_lengths"]]}
    )


def tiny(name, **values):
    """A model of another kind."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=64, bos_token_id=1, eos_token_id=1, pad_token_id=0, **values
    )
    return getattr(transformers, f"{name}ForCausalLM" if name != "GPT2" else "GPT2LMHeadModel")(config).eval()


OPT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64, "word_embed_proj_dim": 32}


def test_learned_positions_start_again_too():
    """GPT-2 takes positions; OPT as well, but only a mask keeps its examples apart."""
    models = {
        "positions": tiny("GPT2", n_embd=32, n_layer=2, n_head=2, n_positions=64),
        "mask": tiny("OPT", **OPT, max_position_embeddings=64),
    }
    rows = [{**row, "input_ids": [i % 64 for i in row["input_ids"]]} for row in pack_rows(examples(9, 14, 5), LIMIT)]
    for isolation, model in models.items():
        collator = packed_collator(model, Padding())

        assert collator.isolation == isolation
        assert largest_difference(model, collator, rows) < 1e-5


class Padding:
    """As much of a tokenizer as a collator needs."""

    pad_token_id, eos_token_id = 0, 1


def test_a_model_that_carries_a_state_across_is_refused():
    """Recurrent layers know nothing of masks, a model that ignores positions counts on; the least leak is seen."""
    recurrent = tiny("Mamba", hidden_size=32, num_hidden_layers=2)
    counting = tiny("GPT2", n_embd=32, n_layer=2, n_head=2, n_positions=64)
    forward = counting.forward
    counting.forward = lambda **batch: forward(**{k: v for k, v in batch.items() if k != "position_ids"})
    leaking = tiny("GPT2", n_embd=32, n_layer=2, n_head=2, n_positions=64)
    leaking.forward = a_little_leak(leaking.forward)

    for model in (recurrent, counting, leaking):
        with pytest.raises(TrainingError, match="No way of packing keeps examples apart"):
            packed_collator(model, Padding())


def a_little_leak(forward):
    """Each position's logits have a thousandth of all before them."""

    def leak(**batch):
        made = forward(**batch)
        made.logits = made.logits + 0.001 * made.logits.cumsum(1)
        return made

    return leak


def test_a_model_that_passes_no_gradient_cannot_be_measured():
    """It is said, not guessed."""
    import torch

    model = tiny("GPT2", n_embd=32, n_layer=2, n_head=2, n_positions=64)
    forward = model.forward
    model.forward = torch.no_grad()(forward)
    with pytest.raises(TrainingError, match="passes no gradient"):
        packed_collator(model, Padding())

    assert packed_collator(model, Padding(), isolation="mask").isolation == "mask"
    with pytest.raises(TrainingError, match="is not one of"):
        packed_collator(model, Padding(), isolation="masks")


CELLS = {
    "plain": {"adapter": "none"},
    "checkpointed": {"checkpointing": "reentrant"},
    "quantized": {"quantization": "nf4", "checkpointing": "non_reentrant"},
    "int8": {"quantization": "int8"},
    "bfloat16": {"dtype": "bfloat16", "attention": "eager"},
}


@pytest.mark.parametrize("case", CELLS)
def test_measuring_leaves_the_model_as_it_was(make_bench, case):
    """Modes, gradients, what is trained, hooks and random numbers; quantized, adapted and checkpointed ones too."""
    import torch

    bench = make_bench(**CELLS[case])
    tokenizer = bench.tokenizer()
    measured, untouched = (ready(bench, case) for _ in range(2))
    before = state(measured)
    collator = packed_collator(measured, tokenizer)

    assert collator.isolation == "positions"
    assert state(measured) == before
    batch = collator(pack_rows(examples(9, 14, 5), LIMIT))
    gradients = []
    for model in (measured, untouched):
        model.train()
        model(**batch).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


def ready(bench, case):
    """A model in train mode, but for one module of it, with what its cell asks for."""
    model = bench.trainable().train()
    model.get_input_embeddings().eval()
    if case == "checkpointed":
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    return model


def state(model):
    import torch

    return (
        [module.training for module in model.modules()],
        [(p.requires_grad, p.grad is None) for p in model.parameters()],
        [len(module._forward_hooks) for module in model.modules()],
        torch.get_rng_state().tolist(),
    )


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_a_packed_batch_has_the_loss_of_its_examples(make_bench, family):
    """By a reference of our own in float64, each example by itself."""
    import torch

    from ftdoctor.bench.reference import token_losses

    bench = make_bench(family=family, adapter="none")
    tokenizer, model = bench.tokenizer(), bench.model().double()
    pairs = [({"role": "user", "content": q}, {"role": "assistant", "content": a}) for q, a in bench.rows(6)]
    rows = Encoder(tokenizer).rows([{"prompt": [q], "completion": [a]} for q, a in pairs])
    total, tokens = 0.0, 0
    with torch.no_grad():
        loss = float(model(**packed_collator(model, tokenizer)(pack_rows(rows, 150))).loss)
        for row in rows:
            labels = torch.tensor([row["labels"]])
            losses, scored = token_losses(model(input_ids=torch.tensor([row["input_ids"]])).logits, labels)
            total, tokens = total + float(losses.sum()), tokens + int(scored.sum())

    # The library computes its loss in float32: one rounding a term of the vocabulary's sum and of the tokens' mean.
    assert loss == pytest.approx(total / tokens, rel=1e-6)


@pytest.mark.parametrize("kind", ["dataset", "stream"])
@pytest.mark.parametrize("trainer", ["plain", "sft"])
def test_both_trainers_take_it(make_bench, trainer, kind):
    """As their data_collator, with packed rows of a dataset or a stream; what is scored is what was encoded."""
    from datasets import Dataset

    bench = make_bench(trainer=trainer, adapter="none")
    tokenizer, model = bench.tokenizer(), bench.trainable()
    pairs = [({"role": "user", "content": q}, {"role": "assistant", "content": a}) for q, a in bench.rows(8)]
    rows = Encoder(tokenizer).rows([{"prompt": [q], "completion": [a]} for q, a in pairs])
    data = Dataset.from_list(rows)
    packed = pack_rows(data if kind == "dataset" else data.to_iterable_dataset(), 150)
    own = {} if trainer == "plain" else {"dataset_kwargs": {"skip_prepare_dataset": True}}
    made = bench.trainer(
        model,
        tokenizer,
        bench.arguments(per_device_train_batch_size=2, max_steps=2, **own),
        train_dataset=packed,
        eval_dataset=packed,
        data_collator=packed_collator(model, tokenizer),
    )
    seen = [label for batch in made.get_train_dataloader() for row in batch["labels"].tolist() for label in row]

    assert sorted(x for x in seen if x != -100) == sorted(x for row in rows for x in row["labels"] if x != -100)
    made.train()
    assert made.state.global_step == 2
    assert made.evaluate()["eval_loss"] > 0
