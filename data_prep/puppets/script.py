"""What the puppets say: a small grammar, words in a carrier, or sentences of any word list."""

import dataclasses
import re

from tfg_jax.errors import DataError

# The grammar of the GRID corpus (Cooke et al. 2006): 51 words; no w, which has three syllables.
GRAMMAR = {
  'command': ('bin', 'lay', 'place', 'set'),
  'colour': ('blue', 'green', 'red', 'white'),
  'preposition': ('at', 'by', 'in', 'with'),
  'letter': tuple('abcdefghijklmnopqrstuvxyz'),
  'digit': ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine'),
  'adverb': ('again', 'now', 'please', 'soon'),
}
# The letter, not the article.
_SPELLINGS = {'a': 'eigh'}

# From roomy to bare: word mode takes the roomiest carrier that fits the frames.
CARRIERS = (
  ('i said * again', 'they want * now', 'we heard * today', 'you read * here', 'please say * soon'),
  ('say * now', 'the * here', 'try * please', 'my * again'),
  ('the *', 'say *', 'my *'),
  ('*',),
)

# Everyday words of all kinds of lip shapes.
WORDS = tuple(
  """
  about above again animal autumn baby balloon banana basket beautiful because before birthday blue
  boat book bottle bread breakfast bridge brother butter camera carpet cheese chicken chocolate city
  cloud coffee colour computer country daughter december different dinner doctor elephant evening
  every family farmer father february fifteen finger fish five flower football forest forty friday
  friend garden giraffe goodbye guitar hammer happy holiday honey house hundred island january jelly
  kitchen ladder lemon letter library lion little lovely machine magic marble market maybe memory
  milk minute monday money monkey moon morning mother mountain mouse movie music never number office
  often onion open orange over paper parent people pepper picture pillow planet please pocket potato
  pretty problem purple question rabbit radio rainbow remember river robot salad saturday school
  seven shadow shoulder silver simple sister smooth snowman something soup sunday sunshine table
  teacher telephone thirteen thursday tiger together tomato tomorrow tuesday twelve umbrella under
  valley very village visit voice water weather wednesday welcome winter wonderful world yellow
  yesterday zebra
  """.split()  # noqa: SIM905
)

_WORD = re.compile(r"[a-z]+('[a-z]+)*")


@dataclasses.dataclass(frozen=True)
class Line:
  """What a clip says.

  Attributes:
    text: the words, lower case, separated by single spaces.
    spoken: the same words, spelled so that the synthesiser says them right.
    word: the target of word mode, else ''.
    position: number of the target in `text`.
  """

  text: str
  spoken: str
  word: str = ''
  position: int = 0


def read_words(path):
  """Reads a word list: one word a line, letters and inner apostrophes.

  Returns:
    Tuple of distinct lower-case words in the file's order.

  Raises:
    DataError: if the file is missing, empty or has a line that is not one word.
  """
  try:
    with open(path, encoding='utf-8') as file:
      lines = file.read().lower().splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(
      f'cannot read the word list: {error}',
      where=path,
      hint='give a text file in UTF-8 with a word in each line.',
    ) from error
  words = {}
  for number, line in enumerate(lines, start=1):
    word = line.strip()
    if word and not _WORD.fullmatch(word):
      raise DataError(
        f'{word!r} is not a word; expected letters and inner apostrophes',
        where=f'{path}, line {number}',
        hint='Give one word a line; spell numbers out.',
      )
    if word:
      words[word] = True
  if not words:
    raise DataError('the word list is empty', where=path, hint='Give one word a line.')
  return tuple(words)


def grammar_line(rng):
  """A sentence such as 'bin blue at f two now'."""
  words = [str(rng.choice(choices)) for choices in GRAMMAR.values()]
  return Line(' '.join(words), ' '.join(_SPELLINGS.get(word, word) for word in words))


def word_lines(rng, words):
  """One target word in carriers from roomy to bare."""
  target = str(rng.choice(words))
  lines = []
  for carriers in CARRIERS:
    carrier = str(rng.choice(carriers))
    text = carrier.replace('*', target)
    lines.append(Line(text, text, target, carrier.split().index('*')))
  return lines


def sentence_lines(rng, words, longest):
  """A random sequence of up to `longest` words, and the same without its last word, and so on."""
  count = int(rng.integers(min(3, longest), longest + 1))
  chosen = [str(word) for word in rng.choice(words, size=count)]
  texts = [' '.join(chosen[:n]) for n in range(count, 0, -1)]
  return [Line(text, text) for text in texts]
