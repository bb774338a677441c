"""Batches: padded on the right, and unscored only where there is nothing to learn."""

from __future__ import annotations

import pytest

from ftdoctor.errors import DataError, TrainingError
from ftdoctor.training.collator import PaddingCollator
from ftdoctor.training.labels import Encoder

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore")]
EOS = 9
ROWS = [
    {"input_ids": [1, 2, 3, EOS], "labels": [-100, -100, 3, EOS]},
    {"input_ids": [4, EOS], "labels": [-100, EOS]},
]


def collate(rows=ROWS, **settings):
    return PaddingCollator(EOS, **settings)(rows)


def test_rows_are_padded_on_the_right():
    """With what is neither attended to nor scored."""
    batch = collate()

    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[1, 2, 3, EOS], [4, EOS, EOS, EOS]],
        "labels": [[-100, -100, 3, EOS], [-100, EOS, -100, -100]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0]],
    }


def test_all_is_int64():
    """Losses take no other labels."""
    import torch

    assert {value.dtype for value in collate().values()} == {torch.int64}


def test_an_end_of_sequence_stays_scored_where_it_is_also_the_padding():
    """The collator of transformers for language models masks all of them."""
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    assert int((collate()["labels"] == EOS).sum()) == 2

    from tokenizers import Tokenizer, models

    words = {str(i): i for i in range(9)} | {"</s>": EOS}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="</s>")), eos_token="</s>", pad_token="</s>"
    )
    theirs = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": r["input_ids"]} for r in ROWS])
    assert int((theirs["labels"] == EOS).sum()) == 0


@pytest.mark.parametrize(("multiple", "length"), [(1, 4), (2, 4), (3, 6), (8, 8)])
def test_lengths_are_rounded_up(multiple, length):
    """For kernels that like it."""
    batch = collate(pad_to_multiple_of=multiple)

    assert {tuple(value.shape) for value in batch.values()} == {(2, length)}
    assert int(batch["attention_mask"].sum()) == 6


def test_rows_may_be_tensors_or_arrays():
    """As formatted datasets hand them."""
    import torch

    tensors = [{name: torch.tensor(values) for name, values in row.items()} for row in ROWS]
    arrays = [{name: value.numpy() for name, value in row.items()} for row in tensors]

    for rows in (tensors, arrays):
        assert {n: v.tolist() for n, v in collate(rows).items()} == {n: v.tolist() for n, v in collate().items()}


def test_positions_are_kept_where_all_rows_have_them():
    """Other columns are not: models refuse what they do not know."""
    rows = [{**row, "position_ids": list(range(len(row["input_ids"]))), "id": "x"} for row in ROWS]

    assert collate(rows)["position_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 0, 0]]
    assert "position_ids" not in collate([rows[0], ROWS[1]])
    assert "id" not in collate(rows)


WRONG = {
    "no labels": ([ROWS[0], {"input_ids": [1]}], "Row 2 of the batch has no labels, only input_ids"),
    "labels of None": ([{"input_ids": [1], "labels": None}], "Row 1 of the batch has no labels"),
    "too few labels": ([{"input_ids": [1, 2], "labels": [1]}], "Row 1 of the batch has 2 input_ids, 1 labels"),
    "nothing": ([{"input_ids": [], "labels": []}], "Row 1 of the batch has 0 input_ids"),
    "raw": ([{"messages": []}], "has no input_ids, only messages; encode the rows with `Encoder` first"),
    "no rows": ([], "has no rows"),
}


@pytest.mark.parametrize("case", WRONG)
def test_rows_that_cannot_be_a_batch_are_refused(case):
    """Labels are never made up: those of the inputs would score the prompt."""
    rows, what = WRONG[case]
    with pytest.raises(DataError) as caught:
        collate(rows)

    assert what in str(caught.value)


def test_the_padding_token_is_the_tokenizers(make_bench):
    """Its end of sequence where it has none, which is as good: nothing looks at it."""
    tokenizer = make_bench(family="llama").tokenizer()
    assert PaddingCollator.of(tokenizer).pad_token_id == tokenizer.pad_token_id

    tokenizer.pad_token = None
    assert PaddingCollator.of(tokenizer).pad_token_id == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(TrainingError, match="neither a pad token nor an end of sequence"):
        PaddingCollator.of(tokenizer)
    with pytest.raises(TrainingError, match="pad_to_multiple_of=0"):
        PaddingCollator(0, 0)


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_a_padded_batch_has_the_loss_of_its_rows(make_bench, family):
    """By a reference of our own in float64, row by row without any padding."""
    import torch

    from ftdoctor.bench.reference import token_losses

    bench = make_bench(family=family, adapter="none")
    tokenizer, model = bench.tokenizer(), bench.model().double()
    rows = Encoder(tokenizer).rows([{"prompt": [u], "completion": [a]} for u, a in map(chat, bench.rows(5))])
    total, tokens = 0.0, 0
    with torch.no_grad():
        loss = float(model(**PaddingCollator.of(tokenizer)(rows)).loss)
        for row in rows:
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
            losses, scored = token_losses(model(input_ids=ids).logits, labels)
            total, tokens = total + float(losses.sum()), tokens + int(scored.sum())

    # The library computes its loss in float32: one rounding a term of the vocabulary's sum and of the tokens' mean.
    assert loss == pytest.approx(total / tokens, rel=1e-6)


def chat(pair):
    return {"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}


@pytest.mark.parametrize("trainer", ["plain", "sft"])
def test_both_trainers_take_it(make_bench, trainer):
    """As their data_collator, with encoded rows; nothing is cut, scored or dropped behind its back."""
    from datasets import Dataset

    bench = make_bench(trainer=trainer, adapter="none")
    tokenizer = bench.tokenizer()
    rows = Encoder(tokenizer).rows([{"prompt": [u], "completion": [a]} for u, a in map(chat, bench.rows(4))])
    own = {} if trainer == "plain" else {"max_length": None}
    made = bench.trainer(
        bench.trainable(),
        tokenizer,
        bench.arguments(per_device_train_batch_size=4, max_steps=1, **own),
        train_dataset=Dataset.from_list(rows),
        data_collator=PaddingCollator.of(tokenizer),
    )
    batch = next(iter(made.get_train_dataloader()))
    seen = [label for row in batch["labels"].tolist() for label in row if label != -100]

    assert sorted(seen) == sorted(label for row in rows for label in row["labels"] if label != -100)
    made.train()
    assert made.state.global_step == 1
