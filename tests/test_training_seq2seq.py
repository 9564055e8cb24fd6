"""The Trainer of the text-to-text lessons: what it generates, in which order, with which settings, and in which precision."""

import numpy as np
import pytest
import torch

from shared import text2text
from shared.course import report, runtime
from shared.course.runtime import CourseError, RunFolder
from shared.legacy import data, models, seq2seq, training
from tests.tiny_training import config

TEXTS = list(dict.fromkeys(data.bundled_split("squad", "train")["context"]))
ONCE = {"eval_steps": 10_000, "save_strategy": "no", "load_best_model_at_end": False}


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path))
    return runtime.run_folder(config())


def lesson(run, name="t5-small", rows=10, cfg=None, scores=None, arguments=None, check_rows=None, new_tokens=6):
    """A text-to-text lesson's Trainer: say the beginning of a paragraph; the rows are also the validation rows."""
    cfg = cfg or config(batch_size=4)
    sources = [text[: 40 + 37 * (k % 5)] for k, text in enumerate(TEXTS[:rows])]
    model, tokenizer, _ = seq2seq.load_seq2seq(name, "random", tokenizer_texts=TEXTS, max_length=96, dropout=0.0)
    encoded, _ = text2text.encode_pairs(sources, [text[:24] for text in sources], tokenizer, 80, 16, "say: ")
    args = training.seq2seq_arguments(cfg, run, model, len(encoded), **({"logging_steps": 1} | (arguments or {})))
    both = {"train": encoded, "validation": encoded}
    return training.seq2seq_trainer(
        model, tokenizer, args, both, scores, 3, max_new_tokens=new_tokens, check_rows=check_rows
    )


@pytest.mark.parametrize("name", ["t5-small", "bart-base", "minilm2minilm", "minilm2minilm-copy"])
def test_what_is_generated_for_a_row_stands_in_that_row(run, name):
    trainer = lesson(run, name)
    assert trainer.args.train_sampling_strategy == "group_by_length"
    rows, tokenizer = trainer.eval_dataset, trainer.processing_class
    output = trainer.predict(rows)
    alone = [text2text.generate(trainer.model, tokenizer, [ids], max_new_tokens=6).texts[0] for ids in rows["input_ids"]]
    assert text2text.decode(output.predictions, tokenizer) == alone
    for said, wanted in zip(output.label_ids, rows["labels"], strict=True):
        assert said[: len(wanted)].tolist() == list(wanted)


def test_a_check_scores_the_first_rows_only_and_sees_them_in_order(run):
    seen = []

    def scores(prediction):
        seen.append(prediction.label_ids)
        return {"rows": len(prediction.predictions)}

    trainer = lesson(run, scores=scores, check_rows=7)
    found = trainer.evaluate()
    assert (found["eval_rows"], len(trainer.eval_dataset), len(trainer.train_dataset)) == (7, 7, 10)
    wanted = trainer.train_dataset["labels"][:7]
    assert [row[: len(ids)].tolist() for row, ids in zip(seen[0], wanted, strict=True)] == [list(ids) for ids in wanted]
    assert len(lesson(run, check_rows=99).eval_dataset) == 10


def test_batches_follow_the_seed_and_labels_are_padded_with_the_ignored_label(run):
    first, again = ([batch["input_ids"].tolist() for batch in lesson(run).get_train_dataloader()] for _ in range(2))
    other = [batch["input_ids"].tolist() for batch in lesson(run, cfg=config(batch_size=4, seed=1)).get_train_dataloader()]
    assert first == again != other
    for batch in lesson(run).get_train_dataloader():
        assert not (batch["labels"] == 0).any() and {"decoder_input_ids", "labels"} <= set(batch)


def test_a_bert_decoder_reads_its_start_token_once(run):
    model, tokenizer, _ = seq2seq.load_seq2seq("minilm2minilm", "random", tokenizer_texts=TEXTS, max_length=96)
    rows, _ = text2text.encode_pairs(TEXTS[:1], ["the ferry"], tokenizer, 80, 16)
    assert tokenizer.decode(rows[0]["input_ids"]).startswith("[CLS]") and tokenizer.decode(rows[0]["labels"]) == "the ferry [SEP]"
    labels = torch.tensor([rows[0]["labels"]])
    fed = model.prepare_decoder_input_ids_from_labels(labels)
    assert fed[0].tolist() == [tokenizer.cls_token_id, *rows[0]["labels"][:-1]]
    _, tokenizer, _ = seq2seq.load_seq2seq("bart-base", "random", tokenizer_texts=TEXTS, max_length=96)
    rows, _ = text2text.encode_pairs(TEXTS[:1], ["the ferry"], tokenizer, 80, 16)
    assert rows[0]["labels"][0] == tokenizer.bos_token_id  # BART starts from </s> and says <s>


def test_generation_settings_of_the_checkpoint_do_not_slip_in(run):
    model, tokenizer, _ = seq2seq.load_seq2seq("bart-base", "random", tokenizer_texts=TEXTS, max_length=96)
    model.generation_config.num_beams, model.generation_config.no_repeat_ngram_size = 4, 3
    made = text2text.explicit_generation(model, tokenizer, 9)
    assert (made.num_beams, made.do_sample, made.max_new_tokens, made.no_repeat_ngram_size) == (1, False, 9, None)
    assert (made.decoder_start_token_id, made.eos_token_id) == (2, [2])
    assert text2text.explicit_generation(model, tokenizer, 9, num_beams=3).num_beams == 3
    assert lesson(run).model.generation_config.max_new_tokens == 6
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    with pytest.raises(CourseError, match=r"no token to start with: set model\.config\.decoder_start_token_id"):
        text2text.explicit_generation(model, tokenizer, 9)


@pytest.mark.parametrize("name", ["t5-small", "minilm2minilm", "minilm2minilm-copy"])
def test_it_learns_saves_the_best_and_reloads_to_the_same_texts(run, name):
    def scores(prediction):
        said = text2text.decode(prediction.predictions, tokenizer)
        return {"exact": np.mean([a == b for a, b in zip(said, wanted, strict=True)])}

    cfg = config(batch_size=4, epochs=60.0, learning_rate=5e-3, evaluations_per_epoch=1)
    arguments = {"metric": "exact", "eval_steps": 20, "save_steps": 20}
    trainer = lesson(run, name, rows=4, cfg=cfg, scores=scores, new_tokens=16, arguments=arguments)
    tokenizer = trainer.processing_class
    wanted = text2text.decode(trainer.eval_dataset["labels"], tokenizer)
    history = training.fit(trainer, run)
    assert max(row["eval_exact"] for row in history if "eval_exact" in row) == trainer.evaluate()["eval_exact"] > 0.5
    models.save(trainer.model, tokenizer, run.model)
    again, tokenizer_again = seq2seq.load_saved(run.model)
    rows = trainer.eval_dataset["input_ids"]
    expected = text2text.generate(trainer.model, tokenizer, rows, max_new_tokens=16).texts
    assert text2text.generate(again, tokenizer_again, rows, max_new_tokens=16).texts == expected
    assert again.generation_config.max_new_tokens == 16
    with pytest.raises(CourseError, match="holds no saved model: run the lesson's saving cell first"):
        seq2seq.load_saved(run.logs)


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [("t5-small", "fp16", "fp32"), ("t5-small", "bf16", "bf16"), ("bart-base", "fp16", "fp16"), ("minilm2minilm", "fp32", "fp32")],
)
def test_only_a_t5_is_kept_out_of_fp16(monkeypatch, name, device, expected):
    monkeypatch.setattr(training.runtime, "precision", lambda: device)
    model, _, _ = seq2seq.load_seq2seq(name, "random", tokenizer_texts=TEXTS, max_length=96)
    assert training.precision_for(model) == expected


def test_only_bart_goes_without_a_prefix():
    names = [*seq2seq.SEQ2SEQ, "someone/a-t5"]
    assert [name for name in names if seq2seq.prefix_for(name, "summarize: ") == ""] == ["bart-base"]


def test_rouge_is_shown_in_points():
    metric = {"value": 38.31, "low": 37.0, "high": 39.02}
    assert report.points_with_interval(metric) == report.shown_metric("rouge1", metric) == "38.3 [37.0, 39.0]"
