"""What models are trained to say, generation and label log-likelihoods, on tiny random models against loops without padding."""

import functools
import io
import json
from types import SimpleNamespace

import IPython
import nbformat
import numpy as np
import pytest
import torch
import tqdm
from nbclient import NotebookClient
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertTokenizer,
    DataCollatorForLanguageModeling,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

from shared import text2text
from shared.course.runtime import ROOT, CourseError
from shared.text2text import (
    IGNORED,
    CompletionCollator,
    _first_line,
    _pad,
    decode,
    generate,
    generate_scored,
    label_log_likelihoods,
)
from tests.tiny import completion_rows

TEXTS = [
    "The ferry to the island left late.",
    "Two goats stopped the mail train for an hour, and the driver fed them his lunch.",
    "Rain.",
    "A baker in the old town sells bread by the metre; the queue is longer than the loaf.",
    "Café prices rose again 😀 in Zürich.",
    "The museum found a lost letter behind a radiator. It was addressed to nobody.",
    "Snow closed the pass until Friday.",
]
BEFORE, AFTER = "Summarize the article.\nArticle: ", "\nSummary:"
PROMPTS = [BEFORE + text + AFTER for text in TEXTS]
COMPLETIONS = [" late ferry", " goats", " wet", " long bread", " dear coffee", " a letter", " snow"]


@functools.cache
def byte_level(template=None, pad="<pad>"):
    """A small byte-level BPE: no special tokens in a text (Phi, SmolLM2), or those of a template (Llama, T5, BERT)."""
    special = ["<pad>", "</s>", "<s>", "<cls>", "<sep>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        [*TEXTS, BEFORE, AFTER, *COMPLETIONS],
        trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    steps = [processors.ByteLevel(trim_offsets=True)]  # as GPT-2's family has it: a token's offsets leave out its space
    if template:
        steps.append(processors.TemplateProcessing(single=template, special_tokens=[(name, special.index(name)) for name in special]))
    core.post_processor = processors.Sequence(steps)
    names = {"cls_token": "<cls>", "sep_token": "<sep>"} if template == "<cls> $A <sep>" else {"eos_token": "</s>", "bos_token": "<s>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=pad, **names)


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 128}
WIDE = {"initializer_range": 0.4}  # random weights of which the best token is clearly the best


@functools.cache
def tiny(kind):
    """(model, tokenizer): two layers of width 32 with random weights."""
    torch.manual_seed(0)
    template = {"llama": "<s> $A", "t5": "$A </s>", "bert2bert": "<cls> $A <sep>"}.get(kind)
    tokenizer = byte_level(template, "</s>" if kind in ("phi", "gpt2") else "<pad>")  # phi-2's only padding is its EOS
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    if kind == "t5":
        config = T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, initializer_factor=4.0, **ids)
        return AutoModelForSeq2SeqLM.from_config(config).eval(), tokenizer
    if kind == "bert2bert":
        halves = BertConfig(vocab_size=len(tokenizer), **SIZES, **WIDE)
        config = EncoderDecoderConfig.from_encoder_decoder_configs(halves, BertConfig(vocab_size=len(tokenizer), **SIZES, **WIDE))
        config.decoder_start_token_id, config.pad_token_id = 3, 0
        return EncoderDecoderModel(config).eval(), tokenizer
    if kind == "gpt2":
        config = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **ids, **WIDE)
    else:
        window = {"sliding_window": 8, "num_key_value_heads": 4} if kind == "mistral" else {}  # shorter than the prompts
        config = {"llama": LlamaConfig, "phi": PhiConfig, "mistral": MistralConfig}[kind](**SIZES, **ids, **WIDE, **window)
    return AutoModelForCausalLM.from_config(config).eval(), tokenizer


DROPPED = "\N{SNOWMAN}"


def deaf(tokenizer):
    """The same tokenizer without special tokens of its own, and one that drops a character."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.normalizer, core.post_processor = normalizers.Replace(DROPPED, ""), processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="<pad>")


DECODERS, ENCODER_DECODERS = ("llama", "phi", "gpt2"), ("t5", "bert2bert")


# batches for training


@pytest.mark.parametrize("kind", DECODERS)
def test_the_prompt_is_never_in_the_loss_and_eos_always_is(kind):
    model, tokenizer = tiny(kind)
    rows = completion_rows(tokenizer, PROMPTS, COMPLETIONS)
    batch = CompletionCollator(tokenizer)(rows)
    for row, ids, labels, mask in zip(range(len(TEXTS)), batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        prompt = tokenizer(PROMPTS[row])["input_ids"]
        ending = [*tokenizer(COMPLETIONS[row], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        length = len(prompt) + len(ending)
        assert ids[:length].tolist() == prompt + ending == rows[row]["input_ids"]
        assert labels.tolist() == [IGNORED] * len(prompt) + ending + [IGNORED] * (len(labels) - length)
        assert mask.tolist() == [1] * length + [0] * (len(mask) - length)
    with torch.no_grad():
        output = model(**batch)
    losses = []
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        wanted = torch.tensor(row["labels"][1:])
        losses.append(torch.nn.functional.cross_entropy(logits[wanted >= 0], wanted[wanted >= 0], reduction="none"))
    assert output.loss.item() == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["phi", "llama"])
def test_logits_for_the_completions_alone_give_the_same_loss_and_gradients(kind):
    model, tokenizer = tiny(kind)
    rows = completion_rows(tokenizer, PROMPTS, COMPLETIONS)
    found = []
    for only in (False, True):
        batch = CompletionCollator(tokenizer, only_completions=only)(rows)
        model.zero_grad()
        output = model(**batch)
        output.loss.backward()
        gradients, counted = [p.grad.clone() for p in model.parameters()], (batch["labels"] >= 0).sum()
        found.append((output.loss.item(), gradients, output.logits.shape[1], counted))
    model.zero_grad()
    (loss, gradients, width, counted), (same_loss, same_gradients, fewer, same_counted) = found
    assert same_loss == pytest.approx(loss, rel=1e-5) and counted == same_counted
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(gradients, same_gradients, strict=True))
    assert fewer < width


def test_the_collator_of_the_library_drops_an_eos_that_is_also_the_padding():
    _, tokenizer = tiny("phi")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    rows = completion_rows(tokenizer, PROMPTS[:2], COMPLETIONS[:2])
    theirs = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": row["input_ids"]} for row in rows])["labels"]
    assert tokenizer.eos_token_id not in theirs
    ours = CompletionCollator(tokenizer)(rows)["labels"]
    assert (ours == tokenizer.eos_token_id).sum(1).tolist() == [1, 1]


# generation


def one_by_one(kind, sources, new_tokens, **arguments):
    """The oracle: every source alone, nothing padded; (texts, whether EOS came, token ids)."""
    model, tokenizer = tiny(kind)
    eos = arguments.pop("eos_token_id", tokenizer.eos_token_id or tokenizer.sep_token_id)
    new = []
    for source in sources:
        ids = torch.tensor([source if isinstance(source, list) else tokenizer(source)["input_ids"]])
        options = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": eos, "pad_token_id": 0} | arguments
        output = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0].tolist()
        new.append(output[1:] if kind in ENCODER_DECODERS else output[ids.shape[1] :])
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in new], [eos in row for row in new], new


@pytest.mark.parametrize("arguments", [{}, {"num_beams": 3, "length_penalty": 0.6}], ids=["greedy", "beams"])
@pytest.mark.parametrize("kind", [*DECODERS, *ENCODER_DECODERS])
def test_batched_generation_equals_one_by_one(kind, arguments):
    model, tokenizer = tiny(kind)
    found = generate(model, tokenizer, TEXTS, max_new_tokens=8, batch_size=3, **arguments)
    texts, stopped, _ = one_by_one(kind, TEXTS, 8, **arguments)
    assert found.texts == texts and found.stopped.tolist() == stopped
    assert len(set(texts)) > 1


@pytest.mark.parametrize("kind", ["llama", "phi", "t5"])
def test_several_texts_of_a_source_follow_one_another(kind):
    model, tokenizer = tiny(kind)
    found = generate(model, tokenizer, TEXTS, max_new_tokens=8, batch_size=3, num_beams=3, num_return_sequences=2)
    expected = []
    for text in TEXTS:
        given = tokenizer(text, return_tensors="pt")
        new = model.generate(**given, max_new_tokens=8, num_beams=3, num_return_sequences=2, do_sample=False, pad_token_id=0)
        expected += text2text.decode(new[:, 1 if kind == "t5" else given["input_ids"].shape[1] :], tokenizer)
    assert found.texts == expected and len(found.stopped) == len(expected) == 2 * len(TEXTS) and len(set(expected)) > len(TEXTS)


def test_samples_are_the_librarys_own(monkeypatch):
    """A prompt that is read once for all its samples gives those that the library draws under the same seed."""
    model, tokenizer = tiny("llama")
    drawn = {"do_sample": True, "temperature": 0.5, "top_k": 0, "num_return_sequences": 4, "max_new_tokens": 8}
    torch.manual_seed(0)
    found = generate(model, tokenizer, TEXTS[:1], **drawn).texts
    torch.manual_seed(0)
    given = tokenizer(TEXTS[0], return_tensors="pt")
    new = model.generate(**given, **drawn, pad_token_id=0)[:, given["input_ids"].shape[1] :]
    assert found == text2text.decode(new, tokenizer) and len(set(found)) > 1


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_every_source_stops_by_itself_and_is_told_so(kind):
    """Tokens that come in the middle are made the EOS: some sources meet it, early or late, others run to the limit."""
    model, tokenizer = tiny(kind)
    _, _, free = one_by_one(kind, TEXTS, 6, eos_token_id=1)
    told = []
    for eos in (free[0][1], free[1][2], free[2][4]):
        found = generate(model, tokenizer, TEXTS, max_new_tokens=6, batch_size=4, eos_token_id=eos)
        texts, stopped, _ = one_by_one(kind, TEXTS, 6, eos_token_id=eos)
        assert found.texts == texts and found.stopped.tolist() == stopped
        told += stopped
    assert set(told) == {True, False}


def test_generation_changes_neither_the_tokenizer_nor_the_models_mode(tmp_path, monkeypatch):
    model, tokenizer = tiny("llama")
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.setattr(tokenizer, "padding_side", "right")
    model.train()
    generate(model, tokenizer, TEXTS, max_new_tokens=2, batch_size=3)
    assert model.training and tokenizer.padding_side == "right"
    with pytest.raises(ValueError, match="no_such_argument"):
        generate(model, tokenizer, TEXTS, max_new_tokens=2, no_such_argument=1)
    assert model.training
    model.eval()
    events = [json.loads(line) for line in (tmp_path / "progress").read_text().splitlines()]
    assert events == [{"step": 3, "of": 7}, {"step": 6, "of": 7}, {"step": 7, "of": 7}]


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_too_little_memory_for_a_batch_names_the_cure(monkeypatch, kind):
    model, tokenizer = tiny(kind)

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(model, "generate", full)
    with pytest.raises(CourseError, match=r"out of memory while asking the model for 3 texts at once: take fewer \(batch_size\), or short"):
        generate(model, tokenizer, TEXTS, max_new_tokens=2, batch_size=3)


def test_the_models_own_generation_settings_do_not_sneak_in(monkeypatch):
    model, tokenizer = tiny("llama")
    expected = generate(model, tokenizer, TEXTS, max_new_tokens=4).texts
    monkeypatch.setattr(model.generation_config, "do_sample", True)
    monkeypatch.setattr(model.generation_config, "num_beams", 4)
    monkeypatch.setattr(model.config, "use_cache", False)  # as gradient checkpointing leaves it
    assert generate(model, tokenizer, TEXTS, max_new_tokens=4).texts == expected


def test_generation_takes_nothing_texts_and_token_ids():
    model, tokenizer = tiny("llama")
    nothing = generate(model, tokenizer, [], max_new_tokens=4)
    assert nothing.texts == [] and nothing.stopped.shape == (0,)
    prompts = [ids[:30] for ids in tokenizer(PROMPTS)["input_ids"]]
    found = generate(model, tokenizer, prompts, max_new_tokens=4, batch_size=2)
    assert found.texts == one_by_one("llama", prompts, 4)[0]
    assert not any(BEFORE.strip() in text for text in found.texts)  # the prompt is not decoded


@pytest.mark.parametrize(
    ("shell", "disabled"),
    [
        (None, None),  # a terminal or a log decides for itself
        (SimpleNamespace(), None),  # IPython in a terminal
        (SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=True)), False),
        (SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=False)), True),
    ],
)
def test_a_bar_is_for_somebody_who_watches(shell, disabled, monkeypatch):
    bars, screen = [], io.StringIO()

    def shown_at_once(**how):
        bars.append(tqdm.tqdm(**(how | {"file": screen, "delay": 0, "mininterval": 0})))
        return bars[-1]

    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr(text2text, "tqdm", shown_at_once)
    generate(*tiny("t5"), TEXTS, max_new_tokens=2, batch_size=3)
    assert text2text._bar_disabled() is disabled and len(bars) == 1
    seen = screen.getvalue()
    if disabled is False:
        assert all(f" {done}/7 " in seen for done in (0, 3, 6))
        assert not seen.split("\r")[-1].strip()  # and it is wiped in the end
    else:
        assert seen == ""


def test_generation_leaves_no_trace_on_the_screen(capsys):
    generate(*tiny("t5"), TEXTS, max_new_tokens=2, batch_size=1)
    label_log_likelihoods(*tiny("llama"), TEXTS, [" late"], batch_size=1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_an_unattended_kernel_shows_no_bar():
    quiet = "import warnings\nwarnings.simplefilter('ignore')\n"  # as runtime.setup is about tqdm's wish for widgets
    cell = nbformat.v4.new_code_cell(quiet + "from shared import text2text\nprint(text2text._bar_disabled())")
    NotebookClient(nbformat.v4.new_notebook(cells=[cell]), timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()
    assert [output["text"] for output in cell.outputs] == ["True\n"]


def test_a_long_source_of_an_encoder_decoder_is_cut_and_said(capsys):
    model, tokenizer = tiny("t5")
    found = generate(model, tokenizer, TEXTS, max_new_tokens=4, max_source=9)
    cut = [tokenizer(text, truncation=True, max_length=9)["input_ids"] for text in TEXTS]
    assert found.texts == one_by_one("t5", cut, 4)[0]
    longer = sum(len(tokenizer(text)["input_ids"]) > 9 for text in TEXTS)
    assert f"{longer} of 7 sources did not fit into 9 tokens" in capsys.readouterr().out


def test_generation_says_what_is_wrong():
    model, tokenizer = tiny("llama")
    with pytest.raises(CourseError, match=r"source 1 is empty: drop the row"):
        generate(model, tokenizer, ["a", " "], max_new_tokens=2)
    with pytest.raises(CourseError, match=r"source 0 is empty"):
        generate(model, tokenizer, [[]], max_new_tokens=2)
    with pytest.raises(CourseError, match=r"source 1 is empty, for it has no token: drop the row"):
        generate(model, deaf(tokenizer), ["a", DROPPED], max_new_tokens=2)
    with pytest.raises(CourseError, match=r"mixed: generate from them in two calls"):
        generate(model, tokenizer, ["a", [3]], max_new_tokens=2)
    with pytest.raises(CourseError, match=r"cut its document instead"):
        generate(model, tokenizer, ["a"], max_new_tokens=2, max_source=9)
    with pytest.raises(CourseError, match=r"source 1 needs 135 tokens and the model has 128: cut its document"):
        generate(model, tokenizer, [[5], [5] * 125], max_new_tokens=10)
    with pytest.raises(CourseError, match=r"source 0 needs 200 tokens and the model has 128: set max_source"):
        generate(*tiny("bert2bert"), [[5] * 200], max_new_tokens=10)
    nameless = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(CourseError, match=r"nothing could stop: pass eos_token_id"):
        generate(tiny("bert2bert")[0], nameless, ["a"], max_new_tokens=2)


def test_decode_survives_the_ignored_label():
    _, tokenizer = tiny("t5")
    rows = [[*tokenizer(" wet goats")["input_ids"], 0, 0], [IGNORED] * 3]
    for ids in (rows, np.array([rows[0], [IGNORED] * len(rows[0])]), torch.tensor([rows[0]])):
        assert decode(ids, tokenizer)[0] == "wet goats"
    assert decode(rows, tokenizer)[1] == "" and decode([], tokenizer) == []


@functools.cache
def uncased():
    """A tokenizer of MiniLM's kind: lower case, no accents, a blank around every sign."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,-%()'$:;’"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(vocabulary)})


def lost(text: str) -> str:
    return decode([uncased()(text)["input_ids"]], uncased())[0]


@pytest.mark.parametrize(
    "copied", ["Beyoncé", "10.5 million", "a well-known Zürich café", "U.S. troops", "$3,000 (about 5%)", "Ida’s", "l'âme", "The end."]
)
def test_what_was_copied_is_spelt_as_in_its_source_again(copied):
    source = f"In 2003, so they say, {copied} was heard of; nobody knew 10.55 millions."
    assert lost(copied) != copied
    assert text2text.respell([lost(copied)], [source], uncased()) == [copied]


def test_syllables_of_several_letters_are_compared_whole():
    for text, source in (("부산", "보석 부산"), ("강남", "고나 강남"), ("부산", "보석 고나"), ("가", "강 각")):
        assert text2text.respell([text], [source], uncased()) == [text]


def test_only_whole_words_are_respelt_and_the_rest_stays():
    source = "The Art of Cartography. Mr Art sold 10.55 maps."
    said = {"cart": "cart", "art of nothing": "Art of nothing", "10. 5 maps": "10. 5 maps", "art, mr art": "Art, Mr Art", "": ""}
    assert text2text.respell(list(said), [source] * len(said), uncased()) == list(said.values())


def test_the_longest_run_of_words_counts():
    source = "He met Bank officials. The bank of the river was high in New York."
    said = "the bank of the river. he met bank officials in new york"
    assert text2text.respell([said], [source], uncased()) == ["The bank of the river. He met Bank officials in New York"]


def test_what_a_tokenizer_without_losses_has_decoded_stays_as_it_is():
    said = ["the flood", "10. 5"]
    assert text2text.respell(said, ["The Flood of 10.5"] * 2, byte_level()) == said
    with pytest.raises(CourseError, match="1 texts for 2 sources: give one a text, in the same order"):
        text2text.respell(["a"], ["b", "c"], uncased())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", DECODERS)
def test_padding_on_either_side_leaves_the_logits_of_real_tokens_as_they_are(kind, side):
    model, tokenizer = tiny(kind)
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    ids, mask = _pad(rows, 0, side)
    with torch.no_grad():
        padded = model(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
        for row, tokens in enumerate(rows):
            alone = model(torch.tensor([tokens])).logits[0]
            torch.testing.assert_close(padded[row][mask[row].bool()], alone, rtol=1e-4, atol=1e-4)


def test_a_model_learns_to_stop_where_eos_is_in_the_loss_and_not_where_it_is_dropped():
    _, tokenizer = tiny("phi")
    rows, prompts = completion_rows(tokenizer, PROMPTS[:3], COMPLETIONS[:3]), tokenizer(PROMPTS[:3])["input_ids"]
    batch, results = CompletionCollator(tokenizer)(rows), {}
    for name, labels in (
        ("kept", batch["labels"]),
        ("dropped", batch["labels"].masked_fill(batch["labels"] == tokenizer.pad_token_id, IGNORED)),
    ):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(PhiConfig(**SIZES, vocab_size=len(tokenizer), pad_token_id=1, eos_token_id=1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(40):
            model(**batch | {"labels": labels}).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        results[name] = generate(model, tokenizer, prompts, max_new_tokens=12)
    assert results["kept"].texts == [text.strip() for text in COMPLETIONS[:3]] and results["kept"].stopped.all()
    assert not results["dropped"].stopped.any()
    assert all(text.startswith(wanted.strip()) for text, wanted in zip(results["dropped"].texts, COMPLETIONS, strict=False))


def test_nothing_but_tokens_is_inherited_from_a_checkpoints_generation_settings():
    """BART-base asks for four beams, no trigram twice and EOS at the limit; a summariser for a least length and a penalty."""
    model, tokenizer = tiny("t5")
    plain, stopped = (generate(model, tokenizer, TEXTS, max_new_tokens=12)[part] for part in (0, 1))
    asked = {"num_beams": 4, "early_stopping": True, "no_repeat_ngram_size": 1, "min_length": 11, "repetition_penalty": 3.0,
             "forced_eos_token_id": tokenizer.eos_token_id, "length_penalty": 2.0}  # fmt: skip
    own = model.generation_config
    try:
        model.generation_config = GenerationConfig(**(own.to_diff_dict() | asked))
        found = generate(model, tokenizer, TEXTS, max_new_tokens=12)
        assert found.texts == plain and found.stopped.tolist() == stopped.tolist()
        given = generate(model, tokenizer, TEXTS, max_new_tokens=12, **asked)
        assert given.texts != plain and given.stopped.all()  # who asks for them gets them
    finally:
        model.generation_config = own


# label log-likelihoods


@functools.cache
def brute_force(kind, prompts, labels, add_special_tokens=True):
    """Every prompt with every label alone, token by token, as lm-evaluation-harness defines the boundary."""
    model, tokenizer = tiny(kind)
    table = np.zeros((len(prompts), len(labels)))
    for i, prompt in enumerate(prompts):
        for j, label in enumerate(labels):
            spaces = len(prompt) - len(prompt.rstrip())
            context, ending = (prompt[:-spaces], prompt[-spaces:] + label) if spaces else (prompt, label)
            whole = tokenizer(context + ending, add_special_tokens=add_special_tokens)["input_ids"]
            before = tokenizer(context, add_special_tokens=add_special_tokens)["input_ids"]
            said = whole[len(before) :]
            for place, token in enumerate(said):
                with torch.no_grad():
                    logits = model(torch.tensor([before + said[:place]])).logits[0, -1].double()
                table[i, j] += logits.log_softmax(-1)[token].item()
    return table


LABELS = (" late", " long goats", " a letter behind the old town", "é")


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("kind", DECODERS)
def test_label_log_likelihoods_equal_brute_force(kind, batch_size):
    model, tokenizer = tiny(kind)
    prompts = (*TEXTS, "The queue is ", "Answer:\n")  # white space at the end moves to the label
    found = label_log_likelihoods(model, tokenizer, prompts, LABELS, batch_size)
    assert found.shape == (9, 4) and found.dtype == np.float64 and (found < 0).all()
    np.testing.assert_allclose(found, brute_force(kind, prompts, LABELS), rtol=1e-3, atol=1e-3)


def test_the_opening_tokens_may_be_left_out():
    model, tokenizer = tiny("llama")
    found = label_log_likelihoods(model, tokenizer, TEXTS, LABELS, add_special_tokens=False)
    np.testing.assert_allclose(found, brute_force("llama", tuple(TEXTS), LABELS, add_special_tokens=False), rtol=1e-3, atol=1e-3)
    assert np.abs(found - label_log_likelihoods(model, tokenizer, TEXTS, LABELS)).max() > 0.1


def test_labels_of_one_token_share_one_pass_per_prompt(monkeypatch):
    model, tokenizer = tiny("llama")
    labels = [tokenizer.decode([token]) for token in (70, 71, 72)]
    assert all(len(tokenizer("x" + label, add_special_tokens=False)["input_ids"]) == 2 for label in labels)
    passes, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: passes.append(len(inputs["input_ids"])) or forward(**inputs))
    label_log_likelihoods(model, tokenizer, ["x", "y x"], labels)
    assert passes == [2]
    assert label_log_likelihoods(model, tokenizer, [], labels).shape == (0, 3)


def test_log_likelihoods_say_what_is_wrong():
    model, tokenizer = tiny("phi")
    with pytest.raises(CourseError, match=r"prompt 1 is empty"):
        label_log_likelihoods(model, tokenizer, ["a", "  "], [" b"])
    with pytest.raises(CourseError, match=r"label 0 is empty"):
        label_log_likelihoods(model, tokenizer, ["a"], [""])
    with pytest.raises(CourseError, match=r"^there is no label to choose from: give at least one, such as ' positive'$"):
        label_log_likelihoods(model, tokenizer, ["a"], [])
    with pytest.raises(CourseError, match=rf"^the label '{DROPPED}' has no token in this tokenizer: give it a text"):
        label_log_likelihoods(model, deaf(tokenizer), ["a"], [" b", DROPPED])
    with pytest.raises(CourseError, match=r"^prompt 1 is empty, for it has no token: .* a text that the tokenizer knows$"):
        label_log_likelihoods(model, deaf(tokenizer), ["a", DROPPED], [" b"])
    with pytest.raises(CourseError, match=r"and the model has 128"):
        label_log_likelihoods(model, tokenizer, ["a", "long " * 200], [" b"])
    with pytest.raises(CourseError, match=r"is an encoder-decoder: let it generate the label"):
        label_log_likelihoods(*tiny("t5"), ["a"], [" b"])
    words = " ".join(TEXTS).split()
    tokens = {part: len(tokenizer(part)["input_ids"]) for word in words for part in (word[:end] for end in range(1, len(word) + 1))}
    begun, label = next((word[:end], word[end:]) for word in words for end in range(1, len(word)) if tokens[word] <= tokens[word[:end]])
    with pytest.raises(CourseError, match=rf"the label '{label}' melts into the prompt's last token: begin it with a space"):
        label_log_likelihoods(model, tokenizer, [begun], [label])


# replies and their rival


def likelihoods(kind, prompt, reply):
    """log P of each token of a reply after a prompt, one by one, nothing padded or remembered."""
    model, _ = tiny(kind)
    found = []
    for place, token in enumerate(reply):
        with torch.no_grad():
            found.append(model(torch.tensor([prompt + reply[:place]])).logits[0, -1].double().log_softmax(-1)[token].item())
    return found


@pytest.mark.parametrize("kind", [*DECODERS, "mistral"])
def test_scored_generation_equals_generation_and_brute_force(kind):
    model, tokenizer = tiny(kind)
    prompts = [ids[:30] for ids in tokenizer(PROMPTS)["input_ids"]]
    found = generate_scored(model, tokenizer, prompts, " late goats", max_new_tokens=6, batch_size=3)
    texts, stopped, new = one_by_one(kind, prompts, 6)
    assert found.texts == [text.split("\n")[0].strip() for text in texts]
    ending = [*tokenizer(" late goats", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    rival = [likelihoods(kind, prompt, ending) for prompt in prompts]
    np.testing.assert_allclose(found.rival, rival, rtol=1e-3, atol=1e-3)
    for row, (prompt, reply) in enumerate(zip(prompts, new, strict=True)):
        count = next((n for n in range(1, len(reply) + 1) if "\n" in tokenizer.decode(reply[:n]).lstrip() or reply[n - 1] == 1), len(reply))
        np.testing.assert_allclose(found.log_likelihood[row], sum(likelihoods(kind, prompt, reply[:count])), rtol=1e-3, atol=1e-3)
        assert found.stopped[row] == (stopped[row] or "\n" in tokenizer.decode(reply).lstrip())


def test_a_forbidden_beginning_changes_the_reply_and_not_the_likelihoods():
    model, tokenizer = tiny("llama")
    prompts = [ids[:30] for ids in tokenizer(PROMPTS)["input_ids"]]
    free = generate_scored(model, tokenizer, prompts, " goats", max_new_tokens=3)
    first = [one_by_one("llama", [prompt], 1)[2][0][0] for prompt in prompts]
    forced = generate_scored(model, tokenizer, prompts, " goats", max_new_tokens=3, begin_suppress_tokens=sorted(set(first)))
    assert all(a != b for a, b in zip(free.texts, forced.texts, strict=True))
    np.testing.assert_allclose(free.rival, forced.rival, rtol=1e-3, atol=1e-3)
    reply = one_by_one("llama", prompts[:1], 3, begin_suppress_tokens=sorted(set(first)))[2][0]
    assert forced.log_likelihood[0] == pytest.approx(sum(likelihoods("llama", prompts[0], reply)), abs=1e-3)


def test_a_reply_ends_with_its_first_line():
    _, tokenizer = tiny("llama")
    ids = tokenizer("\n two\nthree", add_special_tokens=False)["input_ids"]
    count, ended = _first_line(ids, tokenizer, [1])
    assert ended and tokenizer.decode(ids[:count]) == "\n two\n"  # a line break before any word ends nothing
    assert _first_line(ids[:2], tokenizer, [1]) == (2, False)
    assert _first_line([ids[1], 1, 0, 0], tokenizer, [1]) == (2, True)


def test_scored_generation_takes_nothing_and_refuses_what_it_cannot_read():
    model, tokenizer = tiny("llama")
    nothing = generate_scored(model, tokenizer, [], " goats", max_new_tokens=3)
    assert nothing.texts == [] and nothing.rival.shape[0] == 0
    with pytest.raises(CourseError, match=r"^source 1 is empty, for it has no token: drop the row"):
        generate_scored(model, tokenizer, [[5], []], " goats", max_new_tokens=3)
    with pytest.raises(CourseError, match=r"^the rival '' has no token in this tokenizer: give it a text that the model can say$"):
        generate_scored(model, tokenizer, [[5]], "", max_new_tokens=3)
    with pytest.raises(CourseError, match=r"is an encoder-decoder: use generate"):
        generate_scored(*tiny("t5"), [[5]], " goats", max_new_tokens=3)
    with pytest.raises(CourseError, match=r"and the model has 128"):
        generate_scored(model, tokenizer, [[5] * 127], " goats", max_new_tokens=3)
