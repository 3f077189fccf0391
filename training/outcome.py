"""The end of a run: test the chosen weights, write every file, show the table."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger

from few_shot_nas.errors import InputError
from few_shot_nas.model_card import CARD, WEIGHTS, ModelCard, card_of, save_weights
from few_shot_nas.models.digest import weights_digest
from few_shot_nas.runtime.choices_csv import ChoicesCSV
from few_shot_nas.runtime.metrics_csv import MetricsCSV
from few_shot_nas.whole_file import write_text
from training import results, wandb_logging
from training.assemble import Parts, Values
from training.devices import hardware_text
from training.class_scores import write_class_scores
from training.class_tables import Tables
from training.example import example


def check(tables: Tables | None, values: Values) -> None:
    """Refuse, before the run, a test that could not be made after it.

    Raises:
        InputError: if a search is to be tested on other weights than its architecture is derived on, or the reverse
            sweep is to run in mixed precision, in which it was never compared with unrolling.
    """
    if values.get("engine") == "sweep" and str(values["precision"]).endswith("-mixed"):
        raise InputError(f"--engine=sweep --precision={values['precision']}: do not go together; give --engine=unroll")
    if tables is not None and values["test_checkpoint"] == "best" and tables.algorithms[values["algorithm"]].searches:
        raise InputError(
            f"--test_checkpoint=best: {values['algorithm']} searches, and is tested on the last weights, on which its "
            "architecture is derived; give --test_checkpoint=last or auto"
        )


def weights_to_test(wanted: str, run_dir: Path, searches: bool) -> tuple[str, Path | None]:
    """Return ``best`` or ``last``, and the checkpoint to load; None tests the weights at hand."""
    best = run_dir / "checkpoints" / "best.ckpt"
    if wanted == "last" or searches or not best.is_file():
        return "last", None
    return "best", best


def run_test(trainer: pl.Trainer, parts: Parts, values: Values, run_dir: Path) -> dict[str, Any]:
    """Test on the fixed episodes, unless ``--test_episodes=0``.

    Returns:
        The keys of results.json that a test decides, and the scores of every episode as ``rows``.
    """
    label, checkpoint = weights_to_test(values["test_checkpoint"], run_dir, type(parts.module).searches)
    # The choice of the rank that wrote the files holds for all.
    label, checkpoint = trainer.strategy.broadcast((label, checkpoint))
    rows: list[dict[str, Any]] = []
    if values["test_episodes"] > 0:
        trainer.test(parts.module, datamodule=parts.datamodule, ckpt_path=checkpoint, verbose=False, weights_only=True)
        rows = parts.module.test_rows
    split = getattr(parts.datamodule, "resolved_test_split", values["test_split"])
    return {"rows": rows, "split": split, "checkpoint": label, "test": results.scores(rows)}


def genotype_of(parts: Parts) -> Any:
    """Return the architecture a search ended with or a fixed network was built from; None for hand-made networks."""
    return parts.module.genotype or getattr(parts.net, "genotype", None)


def summary(trainer: pl.Trainer, parts: Parts, values: Values, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of results.json."""
    source = parts.source
    parameters, macs = results.cost(
        parts.net, genotype_of(parts), values["n_way"], source.in_channels, source.image_size
    )
    searches = type(parts.module).searches
    names = ("algorithm", "model_class", "data_class", "n_way", "k_shot", "n_query", "seed")
    return {
        **{name: values[name] for name in names},
        "test_seed": values["seed"],
        "protocol": values["protocol"],
        "meta_steps": facts["meta_steps"],
        "wall_seconds": facts["wall_seconds"],
        "test_seconds": facts["test_seconds"],
        "regime": "inherited" if searches or values["init_from"] else "scratch",
        "split": facts["split"],
        "checkpoint": facts["checkpoint"],
        "test": facts["test"],
        "skipped_steps": facts["skipped_steps"],
        "diverged_rows": facts["diverged_rows"],
        "parameters": parameters,
        "macs": macs,
        "hardware": hardware_text(trainer),
        "versions": results.versions(),
        "command": facts["command"],
        "legs": facts["legs"],
        "weights": weights_digest(parts.net),
        **({"chosen_on_val": chosen} if (chosen := parts.module.chosen()) else {}),
        **({"search": dict(parts.module.search_summary)} if searches else {}),
    }


def write_card(run_dir: Path, parts: Parts, values: Values) -> ModelCard:
    """Write model.json, by which the weights of a run can be used without its data, and return it."""
    card = card_of(
        parts.module, parts.source, values, model_class=str(values["model_class"]), n_way=values["n_way"]
    )
    write_text(run_dir / CARD, card.to_json())
    return card


def write_outcome(run_dir: Path, trainer: pl.Trainer, parts: Parts, values: Values, facts: Mapping[str, Any]) -> None:
    """Write everything from results.json to report.html, and print the table."""
    content = summary(trainer, parts, values, facts)
    genotype = genotype_of(parts)
    if genotype is not None:
        write_text(run_dir / "genotype.json", genotype.to_json())
    results.write_episodes(run_dir / "episodes.csv", facts["rows"], partial(parts.datamodule.classes, facts["split"]))
    write_class_scores(run_dir, parts, facts["rows"], facts["split"])
    card = write_card(run_dir, parts, values)
    save_weights(run_dir / WEIGHTS, parts.module, card)
    results.write_json(run_dir / "results.json", content)
    if facts["rows"]:
        results.write_json(run_dir / "example.json", example(parts, facts["split"]))

    from few_shot_nas.report import write_report

    report = write_report(run_dir)
    log_test(trainer, content, run_dir, artifacts=values["wandb_artifacts"])
    results.show([(content, run_dir)])
    print(f"report: {report}", flush=True)


def log_test(trainer: pl.Trainer, content: Mapping[str, Any], run_dir: Path, *, artifacts: bool) -> None:
    """Send the outcome to Weights & Biases and end the loggers; the test itself has logged its accuracies."""
    for logger in trainer.loggers:
        is_local = isinstance(logger, MetricsCSV | ChoicesCSV) or getattr(trainer, "fast_dev_run", False)
        if content["test"] and not is_local:
            if isinstance(logger, WandbLogger):
                wandb_logging.send_outcome(logger, run_dir, content, artifacts)
            logger.finalize("success")
