"""Texts to token ids and back, with characters and with pieces."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tfg_jax.data import vocabulary
from tfg_jax.data.vocabulary import EOS, PAD, UNK, WORD_START
from tfg_jax.errors import DataError

LETTERS = vocabulary.characters("abcdefghijklmnopqrstuvwxyz'")
# Scores such that 'hello' is likelier whole, and 'held' is not hel + d.
PIECES = vocabulary.from_pieces(
  ['\u2581', '\u2581he', '\u2581hello', 'l', 'ld', 'o', 'd', 'hel', 'e', 'h', '\u2581the'],
  [-3.0, -2.0, -4.0, -2.5, -2.0, -3.0, -3.0, -1.0, -5.0, -5.0, -2.0],
)

sentences = st.lists(st.text("abcdefghijklmnopqrstuvwxyz'", min_size=1, max_size=6), min_size=1)


@hypothesis.given(sentences)
def test_characters_round_trip(words):
  text = ' '.join(words)
  ids = LETTERS.encode(text, 200)
  assert LETTERS.decode(ids) == text
  assert ids.dtype == np.int32 and ids.shape == (200,)
  end = len(text) + 1  # one word start for each word; spaces are not spelled
  assert ids[end] == EOS and (ids[end + 1 :] == PAD).all()


@hypothesis.given(st.lists(st.sampled_from(['he', 'hello', 'held', 'the', 'dodo']), min_size=1))
def test_pieces_round_trip(words):
  text = ' '.join(words)
  assert PIECES.decode(PIECES.encode(text, 500)) == text


@hypothesis.given(st.text('\u2581helod', min_size=1, max_size=7))
def test_the_likeliest_pieces_are_found(spelled):
  # Against the enumeration of all ways to cut the text.
  def ways(rest):
    if not rest:
      yield []
    for symbol in PIECES.symbols[4:]:
      if rest.startswith(symbol):
        for way in ways(rest[len(symbol) :]):
          yield [PIECES.symbols.index(symbol), *way]

  spelled = WORD_START + spelled.replace(WORD_START, '')
  scores = [sum(PIECES.scores[i] for i in way) for way in ways(spelled)]
  found = sum(PIECES.scores[i] for i in PIECES.ids(spelled[1:])) if spelled[1:] else max(scores)
  assert found == pytest.approx(max(scores))


def test_case_and_spaces_do_not_matter():
  assert LETTERS.ids('  HeL\u00a0lo ') == LETTERS.ids('hel lo')


def test_what_cannot_be_spelled_is_one_unknown():
  ids = LETTERS.ids('a 42 b')
  assert ids.count(UNK) == 1
  assert LETTERS.decode(ids) == 'a <unk> b'


def test_decoding_stops_at_the_end():
  assert LETTERS.decode([*LETTERS.ids('ab'), EOS, *LETTERS.ids('c')]) == 'ab'


# --------------------------------------------------------------------------------------------------
# sentencepiece files
# --------------------------------------------------------------------------------------------------


def field(number, kind, payload):
  return bytes([number << 3 | kind]) + payload


def message(number, payload):
  return field(number, 2, bytes([len(payload)]) + payload)


def piece(text, score):
  return message(1, message(1, text.encode()) + field(2, 5, np.float32(score).tobytes()))


def model(pieces=vocabulary.SPECIALS, kind=1):
  body = b''.join(piece(text, -i) for i, text in enumerate((*pieces, '\u2581a', 'b')))
  return body + message(2, message(1, b'input.txt') + field(3, 0, bytes([kind])))


def test_a_sentencepiece_model_is_read_as_data(tmp_path):
  path = tmp_path / 'sentencepiece.model'
  path.write_bytes(model())
  read = vocabulary.read_sentencepiece(path)
  assert read.symbols == (*vocabulary.SPECIALS, '\u2581a', 'b')
  assert read.scores == (0, -1, -2, -3, -4, -5)
  assert read.ids('ab') == [4, 5]


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (model()[:20], 'this is not a whole sentencepiece model'),
    (b'\xff' * 30, 'this is not a whole sentencepiece model'),
    (model(kind=2), 'the sentencepiece model is of type 2 with 6 pieces'),
    (model(('<unk>', '<s>', '</s>', '<pad>')), 'the vocabulary starts with <unk> <s> </s> <pad>'),
  ],
)
def test_files_that_are_no_such_model(data, message):
  with pytest.raises(DataError, match=message):
    vocabulary.sentencepiece(data, where='x.model')


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(DataError, match='the sentencepiece model cannot be read: No such file'):
    vocabulary.read_sentencepiece(tmp_path / 'x.model')


def test_texts_that_cannot_be_learnt_from():
  with pytest.raises(DataError, match="the text of the clip is ' '"):
    LETTERS.encode(' ', 10)
  with pytest.raises(DataError, match="the text 'abc'... has 5 tokens, with the end; 4 fit"):
    LETTERS.encode('abc', 4)


def test_a_piece_twice():
  with pytest.raises(DataError, match="the vocabulary holds 'a' twice"):
    vocabulary.characters('aba')
