"""The training loop: phases of epochs, the best epoch of each step by validation, and a state to resume from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..runtime.errors import DferError, ParameterError
from ..runtime.storage import atomic_write
from .checkpoints.states import read_state
from .confidence import LEAST, Calibration, fit_confidence
from .data import Batch
from .data.batches import Batches
from .methods import Method
from .methods.phases import Phase
from .metrics import Scores
from .models.averaging import moving_average

if TYPE_CHECKING:
    from lightning_fabric import Fabric

STATE_FORMAT = "dfer-edge training state 2"


@dataclass(frozen=True)
class TrainSettings:
    """Settings of the loop, independent of the method.

    clip_norm: gradients are clipped to this norm (our choice).
    class_weights: weight each clip's loss by 1/frequency of its class among the drawn clips. ema: decay of a moving
    average of the trained weights, which is evaluated and saved instead of them; 0 for none.
    """

    clip_norm: float = 1.0
    class_weights: bool = False
    ema: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch. number: from 1 within the step, of `epochs`.

    war, uar: on the validation clips. retrieval: for methods without labels, instead: the share of these clips
    whose own caption is the closest in the batch (see `Method.retrieved`). Values that were not measured are NaN, and
    left out of `to_json`.
    """

    step: str
    number: int
    epochs: int
    loss: float
    learning_rate: float
    war: float = math.nan
    uar: float = math.nan
    retrieval: float = math.nan

    @property
    def value(self) -> float:
        """The score by which the best epoch is chosen."""
        return (self.war + self.uar) / 2 if math.isnan(self.retrieval) else self.retrieval

    def told(self, digits: int = 4) -> str:
        """Return the scores as text."""
        if math.isnan(self.retrieval):
            return f"WAR {self.war:.{digits}f}, UAR {self.uar:.{digits}f}"
        return f"own caption the closest {self.retrieval:.{digits}f}"

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value == value}  # JSON has no NaN


class Trainer:
    """Trains a method's phases in order. The model ends with the weights of the last step's best epoch.

    phases: from `Method.phases`. training, validation: batches to train on and to choose epochs by.
    state: file to resume from after an interruption, written after every epoch.
    identity: plain values that must match those in a state to resume from it (settings, data, method).

    results: the best epoch of every finished step.
    """

    def __init__(
        self,
        method: Method,
        phases: list[Phase],
        training: Batches,
        validation: Batches,
        settings: TrainSettings,
        fabric: Fabric,
        state: Path,
        identity: dict[str, Any],
    ) -> None:
        self._method, self._phases, self._settings, self._fabric = method, phases, settings, fabric
        self._training, self._validation, self._state_path, self._identity = training, validation, state, identity
        self._objective: Any = None
        self._optimizer: Any = None
        self._learned = nn.ParameterList()
        self._average: AveragedModel | None = None
        self._best: tuple[float, dict[str, Tensor], Epoch] | None = None
        self.results: list[Epoch] = []

    def run(
        self,
        resume: bool,
        on_epoch: Callable[[Epoch], object] = lambda _: None,
        on_step: Callable[[Epoch], object] = lambda _: None,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        """Train to the end, from the start or, with `resume`, from the state file.

        on_epoch: called with every epoch. on_step: called with each step's best epoch, its weights loaded; after
        resuming, perhaps again for the last one. on_end: called after the last epoch, with that epoch's weights.
        Raises DferError for a state file of another run, or a loss that is NaN or infinite.
        """
        state = None
        if resume and self._state_path.is_file():
            state = read_state(self._state_path, STATE_FORMAT, self._identity)
        start = 0 if state is None else int(state["phase"])
        for index, phase in enumerate(self._phases):
            torch.manual_seed(_seed(self._settings.seed, index))  # new layers are the same after an interruption
            phase.enter()
            if index < start:
                continue
            self._run_phase(index, state if index == start else None, on_epoch)
            if index + 1 == len(self._phases):
                with self._averaged():  # as the last epoch was scored
                    on_end()
            if self._ends_step(index):
                assert self._best is not None  # the step's last phase has had its epochs
                self._load(self._best[1])
                self.results.append(self._best[2])
                on_step(self._best[2])
                self._best = None
        self._method.eval()

    def _ends_step(self, index: int) -> bool:
        return index + 1 == len(self._phases) or self._phases[index + 1].step != self._phases[index].step

    def _run_phase(self, index: int, state: dict[str, Any] | None, on_epoch: Callable[[Epoch], object]) -> None:
        method, fabric, settings, phase = self._method, self._fabric, self._settings, self._phases[index]
        groups = self._unfreeze(phase)
        self._check_inputs(phase)
        optimizer = method.make_optimizer(groups)
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
        if state is not None:
            self._load(state["weights"])
        objective = _Objective(method, self._class_weights() if settings.class_weights else None)
        self._objective, self._optimizer = fabric.setup(objective, optimizer)
        self._learned = nn.ParameterList(parameter for group in groups for parameter in group["params"])
        for name, buffer in method.named_buffers():  # else averaged weights would be scored with other statistics
            if phase.group_of(name) is not None and name.endswith(("running_mean", "running_var")):
                self._learned.register_buffer(name.replace(".", "/"), buffer)
        self._average = moving_average(self._learned, settings.ema) if settings.ema else None
        begin = 0
        if state is not None:
            begin = int(state["epoch"])
            optimizer.load_state_dict(state["optimizer"])
            fabric.strategy.precision.load_state_dict(state["precision"])
            if self._average is not None:
                self._average.load_state_dict(state["average"], strict=False)  # earlier versions averaged less
            self._best = _unpack(state["best"])
            self.results = [Epoch(**result) for result in state["results"]]
        same_step = [other.epochs for other in self._phases if other.step == phase.step]
        before = sum(other.epochs for other in self._phases[:index] if other.step == phase.step)
        for epoch in range(begin, phase.epochs):
            loss = self._train_epoch(index, epoch)
            with self._averaged():
                rate = optimizer.param_groups[0]["lr"]
                result = Epoch(phase.step, before + epoch + 1, sum(same_step), loss, rate, **self._score())
                if not math.isfinite(loss):
                    raise DferError(f"step {phase.step}, epoch {result.number}: the loss is {loss}; lower the rate")
                if self._ends_step(index) and (self._best is None or result.value >= self._best[0]):
                    self._best = (result.value, self._weights(), result)
            on_epoch(result)  # before the state: if killed in between, an epoch is reported twice, not lost
            if fabric.global_rank == 0:
                self._write_state(index, epoch + 1)

    def _train_epoch(self, index: int, epoch: int) -> float:
        """Train one epoch of a phase; return the mean loss. Its random numbers do not depend on earlier epochs."""
        fabric, settings, phase = self._fabric, self._settings, self._phases[index]
        torch.manual_seed(_seed(settings.seed, index, epoch, fabric.global_rank))
        rng = np.random.default_rng([settings.seed, index, epoch, fabric.global_rank])
        steps = self._training.steps
        matrix = None if phase.trains_text else self._class_matrix()
        total = torch.zeros((), device=fabric.device)
        self._method.train()
        for number, batch in enumerate(self._training.random(rng), 1):
            for group in self._optimizer.param_groups:
                group["lr"] = group["peak"] * phase.schedule((epoch * steps + number - 0.5) / (phase.epochs * steps))
            inputs, labels = batch.inputs.to(fabric.device), batch.labels.to(fabric.device)
            shares = None if batch.shares is None else batch.shares.to(fabric.device)
            taught = None if batch.taught is None else batch.taught.to(fabric.device)
            pictures = None if batch.pictures is None else batch.pictures.to(fabric.device)
            loss = self._objective(inputs, labels, batch.names, shares, taught, pictures, matrix)
            self._optimizer.zero_grad(set_to_none=True)
            fabric.backward(loss)
            limit = settings.clip_norm
            fabric.clip_gradients(self._objective, self._optimizer, max_norm=limit, error_if_nonfinite=False)
            self._optimizer.step()
            if self._average is not None:
                self._average.update_parameters(self._learned)
            total += loss.detach()
        mean: Any = fabric.all_reduce(total / steps)
        return float(mean)

    def _unfreeze(self, phase: Phase) -> list[dict[str, Any]]:
        """Make exactly the phase's parameters trainable; return them in groups by learning rate."""
        groups: dict[str, list[nn.Parameter]] = {key: [] for key in phase.rates}
        for name, parameter in self._method.named_parameters():
            key = phase.group_of(name)
            parameter.requires_grad_(key is not None)
            if key is not None:
                groups[key].append(parameter)
        if not any(groups.values()):
            raise DferError(f"step {phase.step}: nothing is left to train; leave out fewer of the method's parts")
        return [{"params": group, "lr": phase.rates[key]} for key, group in groups.items() if group]

    def _check_inputs(self, phase: Phase) -> None:
        """Raise DferError if training uses stored features although this phase trains the image encoder."""
        if self._training.pixels:
            return
        size = self._method.preprocessing.size
        frame = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=self._fabric.device)
        if self._method.eval().encode_frames(frame).requires_grad:
            raise DferError(
                f"step {phase.step} of {self._method.name} trains what its features depend on, so it cannot train on "
                "stored ones; its image_encoder must name all of that"
            )

    @torch.no_grad()
    def _class_matrix(self) -> Tensor:
        """Return the class matrix in evaluation mode, then restore the model's mode."""
        training = self._method.training
        matrix = self._method.eval().class_matrix()
        self._method.train(training)
        return matrix

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Use the averaged weights, if any, within the context."""
        if self._average is None:
            yield
            return
        learned = self._learned.state_dict().values()  # they share memory with the model's
        current = [value.clone() for value in learned]
        _copy(self._average.module.state_dict().values(), learned)
        yield
        _copy(current, learned)

    @torch.no_grad()
    def _score(self) -> dict[str, float]:
        """Return WAR and UAR on the validation clips, or the retrieval score, summed over all processes."""
        self._method.eval()
        if not self._method.labelled:
            found = torch.zeros(2, device=self._fabric.device)  # number of right ones, and of all
            for batch in self._validation.in_order():
                with self._fabric.autocast():
                    right = self._method.retrieved(replace(batch, inputs=batch.inputs.to(self._fabric.device)))
                found += torch.stack([right.sum(), torch.ones_like(right).sum()])
            counted: Any = self._fabric.all_reduce(found, reduce_op="sum")
            return {"retrieval": float(counted[0] / counted[1])}
        matrix = self._class_matrix()
        confusion = torch.zeros(len(self._method.classes), len(self._method.classes), dtype=torch.int64)
        for batch in self._validation.in_order():
            with self._fabric.autocast():  # not through DDP's wrapper, which waits for processes with fewer batches
                predicted = self._method(batch.inputs.to(self._fabric.device), matrix).argmax(dim=-1).cpu()
            confusion.index_put_((batch.labels, predicted), torch.ones_like(batch.labels), accumulate=True)
        counted = self._fabric.all_reduce(confusion.to(self._fabric.device), reduce_op="sum")
        scores = Scores(self._method.classes, counted.cpu().numpy())
        return {"war": scores.war, "uar": scores.uar()}

    @torch.no_grad()
    def calibrate(self) -> Calibration | None:
        """Fit the model's current confidence to the validation clips of all processes, each of which must call this;
        None if there are fewer than `LEAST` clips."""
        self._method.eval()
        matrix = self._class_matrix()
        own: list[tuple[Tensor, Tensor]] = []
        for batch in self._validation.in_order():
            with self._fabric.autocast():
                logits = self._method(batch.inputs.to(self._fabric.device), matrix).float().cpu()
            own.append((logits, batch.labels))
        everyones: list[Any] = [own]
        if self._fabric.world_size > 1:
            everyones = [None] * self._fabric.world_size
            torch.distributed.all_gather_object(everyones, own)
        parts = [part for batches in everyones for part in batches]
        if sum(len(labels) for _, labels in parts) < LEAST:
            return None
        return fit_confidence(*(torch.cat(values).numpy() for values in zip(*parts, strict=True)))

    def _class_weights(self) -> Tensor:
        """Return 1/frequency of each class among the drawn clips, with mean 1 over clips; 0 for classes without any."""
        frequency = np.zeros(len(self._method.classes))
        frequency[: len(self._training.frequency)] = self._training.frequency
        shown = frequency > 0
        weights = np.divide(1 / shown.sum(), frequency, out=np.zeros_like(frequency), where=shown)
        return torch.tensor(weights, dtype=torch.float32, device=self._fabric.device)

    def _weights(self) -> dict[str, Tensor]:
        """Return a copy of the state that any phase trains, without CLIP's frozen weights."""
        trained = self._method.trained_state(self._phases)
        return {name: value.detach().cpu().clone() for name, value in trained.items()}

    def _load(self, weights: dict[str, Tensor]) -> None:
        unexpected = self._method.load_state_dict(weights, strict=False).unexpected_keys
        if unexpected:
            raise ParameterError(
                "resume", f"{self._state_path} does not fit the model ({unexpected[0]}); train without"
            )

    def _write_state(self, phase: int, epoch: int) -> None:
        content = {
            "format": STATE_FORMAT,
            "identity": self._identity,
            "phase": phase,
            "epoch": epoch,
            "weights": self._weights(),
            "optimizer": self._optimizer.state_dict(),
            "precision": self._fabric.strategy.precision.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "results": [result.to_json() for result in self.results],
            "best": self._best and [self._best[0], self._best[1], self._best[2].to_json()],
        }
        with atomic_write(self._state_path) as aside:
            torch.save(content, aside)


class _Objective(nn.Module):
    """A method's loss as a module's forward, which Fabric can wrap for mixed precision and several processes."""

    def __init__(self, method: Method, class_weights: Tensor | None) -> None:
        super().__init__()
        self.method, self._class_weights = method, class_weights

    def forward(
        self,
        inputs: Tensor,
        labels: Tensor,
        names: Sequence[str],
        shares: Tensor | None,
        taught: Tensor | None,
        pictures: Tensor | None,
        class_matrix: Tensor | None,
    ) -> Tensor:
        batch = Batch(inputs, labels, names, shares, taught, pictures)
        return self.method.loss(batch, class_matrix, self._class_weights)


def _copy(values: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    for value, target in zip(values, targets, strict=True):
        target.copy_(value)


def _unpack(best: list[Any] | None) -> tuple[float, dict[str, Tensor], Epoch] | None:
    return (best[0], best[1], Epoch(**best[2])) if best else None


def _seed(*numbers: int) -> int:
    """Return one seed made of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
