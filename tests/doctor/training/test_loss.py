"""The loss is the mean cross entropy of the tokens that are scored, whatever it is computed on, and never NaN."""

from __future__ import annotations

import math

import pytest

pytestmark = pytest.mark.stack

ROWS, TOKENS, VOCABULARY = 3, 11, 57
trains = pytest.mark.filterwarnings("ignore")
"""What the libraries warn each other of, such as TRL of `compute_loss_func`, is no concern of these tests."""


@pytest.fixture
def torch():
    """The library, with its random numbers seeded."""
    import torch

    torch.manual_seed(0)
    return torch


def contiguous(torch, dtype):
    return torch.randn(ROWS, TOKENS, VOCABULARY, dtype=torch.float64).mul(4).to(dtype)


def transposed(torch, dtype):
    return torch.randn(TOKENS, VOCABULARY, ROWS, dtype=torch.float64).mul(4).to(dtype).permute(2, 0, 1)


def padded(torch, dtype):
    return torch.randn(ROWS, TOKENS, VOCABULARY + 7, dtype=torch.float64).mul(4).to(dtype)[..., :VOCABULARY]


def labels(torch, scored):
    found = torch.randint(0, VOCABULARY, (ROWS, TOKENS))
    if scored == "some":
        found[0, :6] = found[1, 3:5] = found[1, 9] = -100
    elif scored == "one row":
        found[1:] = -100
    elif scored == "one token":
        found[:] = -100
        found[2, 4] = 5
    return found


def reference(torch, logits, wanted, items=None):
    """Return loss and gradient in float64, by autograd."""
    exact = logits.detach().double().requires_grad_()
    flat, targets = exact[:, :-1].reshape(-1, VOCABULARY), wanted[:, 1:].reshape(-1)
    total = torch.nn.functional.cross_entropy(flat, targets, reduction="sum", ignore_index=-100)
    loss = total / ((targets != -100).sum() if items is None else items)
    loss.backward()
    return float(loss.detach()), exact.grad


@pytest.mark.parametrize("rows", ["the scored rows", "all rows"])
@pytest.mark.parametrize("items", [None, 100])
@pytest.mark.parametrize("scored", ["all", "some", "one row", "one token"])
@pytest.mark.parametrize("shape", [contiguous, transposed, padded])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_loss_and_gradient_are_those_of_a_float64_reference(torch, monkeypatch, dtype, shape, scored, items, rows):
    """For any dtype and strides, whatever is scored, in chunks, on a CPU and in the way of an accelerator."""
    from ftdoctor.bench.reference import loss_error
    from ftdoctor.training import loss as module

    monkeypatch.setattr(module, "CHUNK", {"cpu": 4 * VOCABULARY})
    if rows == "all rows":
        monkeypatch.setattr(module, "ANSWERS_AT_ONCE", ())
    logits = shape(torch, getattr(torch, dtype)).requires_grad_()
    wanted = labels(torch, scored)
    loss = module.token_mean_loss(logits, wanted, items)
    loss.backward()
    expected, gradient = reference(torch, logits, wanted, items)
    error = torch.finfo(logits.dtype).eps / 2

    assert loss.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    assert float(loss.detach()) == pytest.approx(expected, abs=loss_error(logits, wanted))
    assert logits.grad.dtype == logits.dtype
    # A probability is the exponential of a difference that is as wrong as the loss may be, and is multiplied once in
    # float32 and rounded once to the logits' dtype; below that dtype's smallest normal number roundings are absolute.
    bound = 1.01 * error * gradient.abs() + 2 * loss_error(logits, wanted) * gradient.abs().max()
    assert ((logits.grad.double() - gradient).abs() <= bound + torch.finfo(logits.dtype).tiny).all()


@pytest.mark.parametrize("items", [None, 0, 17])
def test_a_batch_with_nothing_to_score_is_zero_with_a_gradient_of_zeros(torch, items):
    """Where a mean over no tokens is 0/0."""
    from ftdoctor.training.loss import token_mean_loss

    logits = contiguous(torch, torch.float32).requires_grad_()
    loss = token_mean_loss(logits, torch.full((ROWS, TOKENS), -100), items)
    loss.backward()

    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("rows", ["the scored rows", "all rows"])
def test_what_is_not_finite_where_nothing_is_scored_does_not_count(torch, monkeypatch, rows):
    """And where something is scored, the loss says so."""
    from ftdoctor.training import loss as module

    if rows == "all rows":
        monkeypatch.setattr(module, "ANSWERS_AT_ONCE", ())
    wanted = labels(torch, "one row")
    logits = contiguous(torch, torch.float32)
    logits[2, 3] = math.nan
    logits[1, 3] = math.inf
    logits.requires_grad_()
    loss = module.token_mean_loss(logits, wanted)
    loss.backward()

    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert module.token_mean_loss(logits, labels(torch, "all")).isnan()


def test_the_number_of_items_may_come_in_any_form(torch):
    """As the Trainers of different releases hand it over."""
    from ftdoctor.training.loss import token_mean_loss

    logits, wanted = contiguous(torch, torch.float32), labels(torch, "some")
    found = {float(token_mean_loss(logits, wanted, n)) for n in (64, 64.0, torch.tensor(64), torch.tensor([64]))}

    assert len(found) == 1


def test_it_is_the_same_under_autocast_and_without_gradients(torch):
    """Nothing in it is computed in a lower precision."""
    from ftdoctor.training.loss import token_mean_loss

    logits, wanted = contiguous(torch, torch.float32).requires_grad_(), labels(torch, "some")
    loss = token_mean_loss(logits, wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = token_mean_loss(logits, wanted)
        mixed.backward()
    with torch.no_grad():
        without = token_mean_loss(logits, wanted)

    assert mixed.item() == loss.item() == without.item()
    assert not without.requires_grad
    assert torch.equal(logits.grad, torch.autograd.grad(loss, logits)[0])


def test_it_keeps_one_number_a_row_beside_the_logits(torch):
    """The library keeps a float32 for each logit."""
    from ftdoctor.training.loss import token_mean_loss

    logits, kept = contiguous(torch, torch.bfloat16).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        token_mean_loss(logits, labels(torch, "all"))
    others = [t for t in kept if t.data_ptr() != logits.data_ptr()]

    assert len(others) == len(kept) - 1
    assert sum(t.numel() for t in others) <= 3 * ROWS * TOKENS + 1


def test_labels_of_chosen_positions_are_not_shifted_again(torch):
    """Logits that exist only where something is scored."""
    from ftdoctor.training.loss import aligned_loss, token_mean_loss

    logits, wanted = contiguous(torch, torch.float32), labels(torch, "some")
    kept = [i for i in range(TOKENS - 1) if (wanted[:, i + 1] != -100).any()]

    assert aligned_loss(logits[:, kept], wanted[:, 1:][:, kept]).item() == pytest.approx(
        token_mean_loss(logits, wanted).item(), rel=1e-6
    )


def test_a_second_derivative_is_refused(torch):
    """Rather than taken for zero."""
    from ftdoctor.errors import TrainingError
    from ftdoctor.training.loss import token_mean_loss

    logits = contiguous(torch, torch.float32).requires_grad_()
    with pytest.raises(TrainingError, match=r"no second derivative.*create_graph"):
        torch.autograd.grad(token_mean_loss(logits, labels(torch, "all")), logits, create_graph=True)


@pytest.mark.parametrize("wrong", [VOCABULARY, -1])
def test_a_label_that_is_no_token_is_named(torch, wrong):
    """By row and position."""
    from ftdoctor.errors import DataError
    from ftdoctor.training.loss import token_mean_loss

    wanted = labels(torch, "all")
    wanted[1, 4] = wrong
    with pytest.raises(DataError, match=f"Label {wrong} in row 1 of the batch, position 4.*vocabulary of {VOCABULARY}"):
        token_mean_loss(contiguous(torch, torch.float32), wanted)


def test_labels_of_another_length_are_refused(torch):
    """Cut to fit, they would be scored against the wrong logits."""
    from ftdoctor.errors import TrainingError
    from ftdoctor.training.loss import token_mean_loss

    with pytest.raises(TrainingError, match=r"shape \(3, 10\) don't fit logits of shape \(3, 11, 57\)"):
        token_mean_loss(contiguous(torch, torch.float32), labels(torch, "all")[:, 1:])


def test_the_numbers_of_dataparallel_are_refused(torch):
    """One for each device, of which none is right for all of the logits."""
    from ftdoctor.errors import TrainingError
    from ftdoctor.training.loss import token_mean_loss

    with pytest.raises(TrainingError, match="DataParallel"):
        token_mean_loss(contiguous(torch, torch.float32), labels(torch, "all"), torch.full((2, 1), 64))


def test_a_batch_without_labels_is_refused(torch):
    """The Trainer only warns of it."""
    from ftdoctor.errors import TrainingError
    from ftdoctor.training.loss import TokenMeanLoss

    with pytest.raises(TrainingError, match="no `labels`"):
        TokenMeanLoss()({"logits": contiguous(torch, torch.float32)}, None)


@pytest.mark.parametrize("form", [lambda logits: {"logits": logits}, lambda logits: (logits, None)])
def test_a_model_may_return_a_dict_or_a_tuple(torch, form):
    """As `return_dict` says."""
    from ftdoctor.training.loss import TokenMeanLoss, token_mean_loss

    logits, wanted = contiguous(torch, torch.float32), labels(torch, "some")

    assert torch.equal(TokenMeanLoss()(form(logits), wanted), token_mean_loss(logits, wanted))


@pytest.fixture
def step(make_bench):
    """Return a function that takes one optimizer step over eight rows, and returns trainer, loss, logs and gradient."""
    import torch
    from datasets import Dataset

    from ftdoctor.bench.watch import gradient_recorder, undisturbed

    def take(loss, trainer, accumulation, masked=(), **changes):
        bench = make_bench(trainer=trainer, adapter="none")
        tokenizer = bench.tokenizer()
        rows = [bench.encode(tokenizer, *pair) for pair in bench.rows(8)]
        for i in masked:
            rows[i]["labels"] = [-100] * len(rows[i]["labels"])
        values = {"max_steps": 1, "max_grad_norm": 1e9, "per_device_train_batch_size": 8 // accumulation}
        if trainer == "sft":
            values["dataset_kwargs"] = {"skip_prepare_dataset": True}
        args = bench.arguments(gradient_accumulation_steps=accumulation, **{**values, **changes})
        torch.manual_seed(0)
        recorder, model = gradient_recorder(), undisturbed(bench.load())
        built = bench.trainer(
            model,
            tokenizer,
            args,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:2]),
            compute_loss_func=loss,
            callbacks=[recorder],
        )
        before = bench.load().double()
        result = built.train().training_loss
        return built, result, recorder.steps[0], exact(before, rows)

    return take


def exact(model, rows):
    """Return the float64 loss of rows, each alone, and its gradient."""
    import torch

    total, items = torch.zeros((), dtype=torch.float64), 0
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        for position, label in enumerate(row["labels"][1:]):
            if label != -100:
                total = total - torch.log_softmax(logits[position], -1)[label]
                items += 1
    (total / items).backward()
    return float(total.detach()) / items, {name: p.grad for name, p in model.named_parameters()}


@trains
@pytest.mark.parametrize("masked", [(), (1, 5)])
@pytest.mark.parametrize("accumulation", [1, 2, 8])
@pytest.mark.parametrize("trainer", ["plain", "sft"])
def test_a_trainer_steps_along_the_mean_over_all_tokens_of_the_step(step, trainer, accumulation, masked):
    """However the rows are cut into micro-batches, and with rows that have nothing to score."""
    import torch

    from ftdoctor.bench.reference import distance, relative_forward_error
    from ftdoctor.training.loss import TokenMeanLoss

    loss = TokenMeanLoss()
    built, measured, gradient, (expected, expected_gradient) = step(loss, trainer, accumulation, masked)
    error = relative_forward_error(built.model.config, torch.float32)

    assert measured == pytest.approx(expected, rel=error)
    assert distance(gradient, expected_gradient) <= 2 * error
    assert loss.empty_batches == (len(masked) if accumulation == 8 else 0)


@trains
@pytest.mark.parametrize("trainer", ["plain", "sft"])
def test_it_is_really_this_loss_that_is_trained(step, trainer):
    """Twice the loss has twice the gradient."""
    from ftdoctor.bench.reference import distance
    from ftdoctor.training.loss import TokenMeanLoss

    class Twice(TokenMeanLoss):
        def __call__(self, *args, **kwargs):
            return 2 * super().__call__(*args, **kwargs)

    _, loss, gradient, _ = step(TokenMeanLoss(), trainer, 2)
    _, twice, double, _ = step(Twice(), trainer, 2)

    assert twice == pytest.approx(2 * loss)
    assert distance(double, {name: 2 * value for name, value in gradient.items()}) < 1e-6


@trains
@pytest.mark.parametrize("trainer", ["plain", "sft"])
def test_an_evaluation_is_divided_by_its_own_tokens(step, trainer):
    """A batch of it is a whole of its own."""
    from ftdoctor.training.loss import TokenMeanLoss

    built, _, _, _ = step(TokenMeanLoss(), trainer, 2, learning_rate=0.0, per_device_eval_batch_size=2)
    expected, _ = exact(built.model.double(), built.eval_dataset.to_list())
    built.model.float()

    assert built.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


class TestMixtureOfExperts:
    """A model that adds a loss of its own, for the balance of its experts."""

    @pytest.fixture
    def outputs(self, make_bench):
        """Return a function that returns what the model makes of some rows, its labels among them or not."""
        import torch

        bench = make_bench(family="qwen3_moe", adapter="none")
        model, tokenizer = bench.load(), bench.tokenizer()
        batch = bench.batch(tokenizer, bench.rows(4))

        def call(own, rows=slice(None)):
            part = {name: value[rows] for name, value in batch.items()}
            wanted = part.pop("labels")
            with torch.no_grad():
                return model(**part, **({"labels": wanted} if own else {}), output_router_logits=True), wanted

        return call

    def test_its_loss_is_not_dropped_in_silence(self, outputs):
        """A loss of one's own replaces the model's, balance and all."""
        from ftdoctor.errors import TrainingError
        from ftdoctor.training.loss import TokenMeanLoss

        with pytest.raises(TrainingError, match=r"aux_loss.*router_aux_loss_coef"):
            TokenMeanLoss()(*outputs(own=False))

    def test_with_its_weight_it_is_the_models_own_loss(self, outputs):
        """Of a whole batch."""
        from ftdoctor.training.loss import TokenMeanLoss

        found, wanted = outputs(own=False)

        assert float(TokenMeanLoss(balance=0.001)(found, wanted)) == pytest.approx(float(outputs(own=True)[0].loss))

    def test_the_parts_of_an_accumulated_batch_add_up_to_one_mean(self, outputs):
        """Each by its share of the tokens."""
        from ftdoctor.training.loss import TokenMeanLoss

        loss, plain = TokenMeanLoss(balance=1.0), TokenMeanLoss(balance=0.0)
        parts = [outputs(own=False, rows=slice(i, i + 2)) for i in (0, 2)]
        counts = [int((wanted[:, 1:] != -100).sum()) for _, wanted in parts]
        whole = sum(
            float(loss(found, wanted, sum(counts)) - plain(found, wanted, sum(counts))) for found, wanted in parts
        )
        mean = sum(n * float(found.aux_loss) for n, (found, _) in zip(counts, parts, strict=True)) / sum(counts)

        assert whole == pytest.approx(mean, rel=1e-5)
