"""What a file that wants to do harm holds."""


class Evil:
  """Pickled, it asks the reader to call a function."""

  def __init__(self, function, *args):
    self.function, self.args = function, args

  def __reduce__(self):
    return self.function, self.args
