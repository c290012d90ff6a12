import logging
import stat
import subprocess
import sys
import time

import pytest

from bertline.errors import UserError
from bertline.serving import masking, sampling
from bertline.serving.masking import mask_bytes, mask_message, mask_text
from bertline.serving.protos import Example, LoggingConfig, PredictionLog, TensorProto
from bertline.serving.runtime import tf
from bertline.serving.sampling import Sampler

STRING, FLOAT = tf.string.as_datatype_enum, tf.float32.as_datatype_enum


def config(prefix, rate: float = 1.0, kind: str = "tfrecord") -> LoggingConfig:
    read = LoggingConfig()
    read.log_collector_config.type = kind
    read.log_collector_config.filename_prefix = str(prefix)
    read.sampling_config.sampling_rate = rate
    return read


def predict_log(*texts: str, label: str = "positive") -> PredictionLog:
    sample = PredictionLog()
    sample.predict_log.request.model_spec.name = "mood"
    sample.predict_log.request.inputs["text"].CopyFrom(tf.make_tensor_proto([text.encode() for text in texts]))
    sample.predict_log.response.outputs["label"].CopyFrom(tf.make_tensor_proto([label] * len(texts)))
    sample.predict_log.response.outputs["probabilities"].CopyFrom(tf.make_tensor_proto([[0.25, 0.75]] * len(texts)))
    return sample


def example(**texts: str) -> Example:
    proto = Example()
    for name, text in texts.items():
        proto.features.feature[name].bytes_list.value.append(text.encode())
    return proto


def written(folder) -> list[PredictionLog]:
    files = sorted(str(file) for file in folder.glob("*.tfrecord"))
    return [PredictionLog.FromString(record) for record in tf.data.TFRecordDataset(files).as_numpy_iterator()]


def sampled(folder, *samples: PredictionLog) -> list[PredictionLog]:
    sampler = Sampler(config(folder / "mood"), "mood")
    for sample in samples:
        sampler.offer(sample)
    sampler.close()
    return written(folder)


# === Texts ===


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail jane.doe@example.com now", "mail <EMAIL_ADDRESS> now"),
        ("root@localhost, a@b@c and @me,joe@x.com", "<EMAIL_ADDRESS> <EMAIL_ADDRESS> and <EMAIL_ADDRESS>"),
        ("call +1 212-555-0187!", "call <PHONE_NUMBER>!"),
        ("call 020 7946 0958", "call <PHONE_NUMBER>"),
        ("card 4111 1111 1111 1111 exp 12/27", "card <CREDIT_CARD> exp 12/27"),
        ("mistyped card 4111-1111-1111-1112.", "mistyped card <NUMBER>."),
        ("pay DE89 3704 0044 0532 0130 00 please", "pay <IBAN_CODE> please"),
        ("from 192.168.1.77 or 2001:db8::8a2e:370:7334", "from <IP_ADDRESS> or <IP_ADDRESS>"),
        ("at 00:1B:44:11:3A:B7", "at <MAC_ADDRESS>"),
        ("@united look https://t.co/abc?user=1", "<USERNAME> look <URL>"),
        ("passport AB1234567", "passport AB<NUMBER>"),
        ("insured as AB123456C", "insured as <UK_NINO>"),
        ("3 of 12 gates, row 24, £550 in 2026", "3 of 12 gates, row 24, £550 in 2026"),
        ("Jane Doe of Leeds", "Jane Doe of Leeds"),  # names take a language model: docs/serving/security.md says so
        ("", ""),
    ],
)
def test_personal_data_is_masked_by_kind(text, masked):
    assert mask_text(text) == masked


def test_a_text_too_long_to_search_is_left_out():
    assert mask_text("a" * 10_001 + " jane@example.com") == "<TOO_LONG>"


@pytest.mark.parametrize("worst", ["1 ", "1.", "a.", "a@", "(", "+1", "A1B2", "fe:", "@", "www."])
def test_no_text_takes_long(worst):
    text = (worst * 10_000)[:10_000]
    mask_text("")  # the imports
    started = time.process_time()
    mask_text(text)
    assert time.process_time() - started < 10  # 2 s and less where nothing else runs


def test_nothing_is_fetched():
    """In a process of its own, so that nothing is at hand yet."""
    program = (
        "import socket\n"
        "def refuse(*_): raise SystemExit('masking wants the network')\n"
        "socket.getaddrinfo = socket.socket.connect = refuse\n"
        "from bertline.serving.masking import mask_text\n"
        "print(mask_text('mail jane@example.com or call 020 7946 0958'))"
    )
    ran = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert ran.stdout == "mail <EMAIL_ADDRESS> or call <PHONE_NUMBER>\n", ran.stderr


# === Messages ===


def test_bytes_are_a_text_an_example_or_nothing():
    assert mask_bytes("café jane@example.com".encode()) == "café <EMAIL_ADDRESS>".encode()
    serialized = mask_bytes(example(text="jane@example.com", title="4111 1111 1111 1111").SerializeToString())
    assert Example.FromString(serialized) == example(text="<EMAIL_ADDRESS>", title="<CREDIT_CARD>")
    assert mask_bytes(b"\xff\xd8\xff\xe0 jane@example.com") == b"<NOT_TEXT>"


def test_every_kind_of_log_is_masked():
    sample = PredictionLog()
    secret = example(text="jane@example.com")
    sample.classify_log.request.input.example_list_with_context.examples.append(secret)
    sample.classify_log.request.input.example_list_with_context.context.CopyFrom(secret)
    sample.classify_log.response.result.classifications.add().classes.add(label="jane@example.com", score=0.5)
    other = PredictionLog()
    other.multi_inference_log.request.input.example_list.examples.append(secret)
    for message in (sample, other):
        mask_message(message)
        assert b"jane" not in message.SerializeToString()
    assert sample.classify_log.response.result.classifications[0].classes[0].label == "<EMAIL_ADDRESS>"
    assert sample.classify_log.response.result.classifications[0].classes[0].score == 0.5


def test_packed_strings_are_masked_too_and_numbers_stay():
    packed = TensorProto(dtype=STRING, tensor_content=b"\x04\x10goodjane@example.com")
    packed.tensor_shape.dim.add(size=2)
    mask_message(packed)
    assert (packed.tensor_content, list(packed.string_val)) == (b"", [b"good", b"<EMAIL_ADDRESS>"])
    numbers = tf.make_tensor_proto([0.5, 1234567.0])
    before = numbers.SerializeToString()
    mask_message(numbers)
    assert numbers.SerializeToString() == before


def test_fields_that_nobody_knows_are_taken_out():
    text = b"jane@example.com"
    unknown = b"\xfa\x7f" + bytes([len(text)]) + text  # field 2047, a string
    sample = PredictionLog.FromString(predict_log("a").SerializeToString() + unknown)
    mask_message(sample)
    assert sample == predict_log("a")


# === Files ===


def test_a_sample_is_written_masked(tmp_path):
    secrets = ("jane@example.com", "4111 1111 1111 1111", "+1 212-555-0187")
    (sample,) = sampled(tmp_path, predict_log(*(f"hello {secret} bye" for secret in secrets)))
    texts = list(sample.predict_log.request.inputs["text"].string_val)
    assert texts == [b"hello <EMAIL_ADDRESS> bye", b"hello <CREDIT_CARD> bye", b"hello <PHONE_NUMBER> bye"]
    assert sample.predict_log.response == predict_log("a", "b", "c").predict_log.response
    assert sample.log_metadata.model_spec.name == "mood"
    assert sample.log_metadata.sampling_config.sampling_rate == 1
    assert abs(sample.log_metadata.timestamp_secs - time.time()) < 60

    (file,) = tmp_path.iterdir()
    assert file.name.startswith("mood-") and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not [secret for secret in secrets if secret.encode() in file.read_bytes()]


def test_two_samplers_of_one_prefix_write_two_files(tmp_path):
    assert len(sampled(tmp_path, predict_log("first"))) == 1
    assert len(sampled(tmp_path, predict_log("second"))) == 2


def test_a_file_does_not_grow_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "FILE_BYTES", 1)
    assert len(sampled(tmp_path, *(predict_log(str(number)) for number in range(3)))) == 3
    assert len(list(tmp_path.iterdir())) == 3


def test_samples_can_be_read_while_the_server_runs(tmp_path):
    sampler = Sampler(config(tmp_path / "mood"), "mood")
    sampler.offer(predict_log("a"))
    until = time.monotonic() + 30
    while not sampler.written and time.monotonic() < until:
        time.sleep(0.01)
    assert len(written(tmp_path)) == 1
    sampler.close()


# === Rates, overload, faults ===


def test_rates(tmp_path):
    never, always = Sampler(config(tmp_path / "a", 0), "mood"), Sampler(config(tmp_path / "b", 1), "mood")
    half = Sampler(config(tmp_path / "c", 0.5), "mood")
    assert sum(never.is_next() for _ in range(1000)) == 0
    assert sum(always.is_next() for _ in range(1000)) == 1000
    assert 400 < sum(half.is_next() for _ in range(1000)) < 600  # six standard deviations
    for sampler in (never, always, half):
        sampler.close()
    assert list(tmp_path.iterdir()) == []


def test_what_is_too_much_is_dropped_at_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sampling, "WAITING_BYTES", 1)
    sampler = Sampler(config(tmp_path / "mood"), "mood")
    samples = [predict_log("1 " * 5000), *(predict_log("jane@example.com") for _ in range(20))]  # the first takes 2 s
    started = time.monotonic()
    for sample in samples:
        sampler.offer(sample)
    assert time.monotonic() - started < 1
    sampler.close()
    assert (sampler.written, sampler.dropped) == (1, 20)
    assert len(written(tmp_path)) == 1
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 5  # at 1, 2, 4, 8, 16
    assert said[0] == (
        "model mood: 1 samples dropped so far, the last one: more samples than can be masked; lower sampling_rate"
    )


def test_what_cannot_be_masked_is_neither_written_nor_logged(tmp_path, monkeypatch, caplog):
    mask = masking.mask_text

    def failing(text: str) -> str:
        if "jane" in text:
            raise RuntimeError(f"cannot mask {text}")
        return mask(text)

    monkeypatch.setattr(masking, "mask_text", failing)
    samples = sampled(tmp_path, predict_log("jane@example.com"), predict_log("fine"))
    assert [list(sample.predict_log.request.inputs["text"].string_val) for sample in samples] == [[b"fine"]]
    assert "the last one: RuntimeError" in caplog.text and "jane" not in caplog.text


def test_what_cannot_be_written_does_not_stop_the_next(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    sampler = Sampler(config(folder / "mood"), "mood")
    folder.rmdir()
    sampler.offer(predict_log("lost"))
    until = time.monotonic() + 30
    while not sampler.dropped and time.monotonic() < until:
        time.sleep(0.01)
    folder.mkdir()
    sampler.offer(predict_log("kept"))
    sampler.close()
    assert (sampler.written, sampler.dropped) == (1, 1)


def test_after_a_full_disk_the_next_sample_starts_a_file(tmp_path, monkeypatch):
    open_writer, opened = tf.io.TFRecordWriter, []

    def first_on_a_full_disk(file):
        opened.append(file)
        return open_writer("/dev/full" if len(opened) == 1 else file)

    monkeypatch.setattr(tf.io, "TFRecordWriter", first_on_a_full_disk)
    (sample,) = sampled(tmp_path, predict_log("lost"), predict_log("kept"))
    assert list(sample.predict_log.request.inputs["text"].string_val) == [b"kept"]


def test_after_close_samples_are_dropped(tmp_path):
    sampler = Sampler(config(tmp_path / "mood"), "mood")
    sampler.close()
    sampler.offer(predict_log("a"))
    sampler.close()
    assert (sampler.written, sampler.dropped) == (0, 1)


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_is_a_probability(tmp_path, rate):
    with pytest.raises(UserError, match=r"sampling_rate is .*: it must be from 0 to 1"):
        Sampler(config(tmp_path / "mood", rate), "mood")


def test_what_is_not_done_is_refused(tmp_path):
    with pytest.raises(UserError, match="type is 'kafka': this server has only 'tfrecord'"):
        Sampler(config(tmp_path / "mood", kind="kafka"), "mood")
    with pytest.raises(UserError, match=r"filename_prefix is .*/nowhere/mood': it must start in a folder that exists"):
        Sampler(config(tmp_path / "nowhere" / "mood"), "mood")
    with_attributes = config(tmp_path / "mood")
    with_attributes.sampling_config.attributes = 1
    with pytest.raises(UserError, match=r"sampling_config\.attributes"):
        Sampler(with_attributes, "mood")
    custom = config(tmp_path / "mood")
    custom.custom_logging_config.SetInParent()
    with pytest.raises(UserError, match="custom_logging_config"):
        Sampler(custom, "mood")
