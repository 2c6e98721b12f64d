"""The comparison's arithmetic, its workers and its environment; no torch."""

import json
import pathlib
import re
import sys
import types

import pytest

from benchmarks import environment, peers
from prompt_jax.errors import UserError

_FAKE = """
import json, sys
pace = float(sys.argv[-1])
print(json.dumps({'load_seconds': pace, 'start_seconds': 2 * pace,
                  'versions': 'fake'}), flush=True)
for number, line in enumerate(sys.stdin):
  seconds = pace * {'train': 1, 'decode': 2, 'rank': 3, 'score': 7}.get(
    line.strip(), 0)
  print(json.dumps({'seconds': seconds + (number < 2) * 100, 'cpu': seconds / 2,
                    'value': number, 'peak': 2**20}), flush=True)
"""
_PACES = {'ours': 1.0, 'peft_float32': 4.0, 'peft_bfloat16': 2.0}


@pytest.fixture
def found(tmp_path):
  """Figures of fake workers: each has a pace of its own."""
  file = tmp_path / 'fake.py'
  file.write_text(_FAKE)
  workers = {
    name: peers.Worker([sys.executable, '-P', str(file), 'x', str(pace)], {})
    for name, pace in _PACES.items()
  }
  made = peers.measured(workers, repeats=3)
  for worker in workers.values():
    worker.close()
  return made


def test_workers_are_asked_in_turn(found):
  assert list(found) == list(_PACES)
  ours = found['ours']
  # the two that warm up, which took 100 seconds more, are not in it
  assert ours['train']['seconds'] == [1.0] * 3
  assert ours['rank']['seconds'] == [3.0] * 3
  assert ours['train']['value'] == 0  # the loss before any update
  assert ours['save'] == 4 * 5  # asked after four kinds of work
  assert ours['peak'] == 2**20 and ours['load_seconds'] == 1.0


def test_ratios(found):
  made = peers.ratios(found)
  assert made['train_ratio_peft_float32'] == pytest.approx(1 / 4)
  assert made['train_ratio_peft_bfloat16'] == pytest.approx(1 / 2)
  assert made['decode_cpu_ratio_peft_float32'] == pytest.approx(1 / 4)
  assert made['rank_ratio_scored'] == pytest.approx(3 / 7)
  assert made['rank_ratio_peft_bfloat16'] == pytest.approx(1 / 2)


def test_table(found):
  lines = peers.table(found, batch=8).splitlines()
  assert lines[0] == '|  | ours | peft_float32 | peft_bfloat16 |'
  cells = {line.split(' | ')[0]: line for line in lines}
  assert (
    '| 1 (1 to 1) | 4 (4 to 4) | 2 (2 to 2) |' in cells['| training step, s']
  )
  assert '| 4.0 | 1.0 | 2.0 |' in cells['| decoded examples/s']
  assert {line.count('|') for line in lines} == {5}


def test_main_prints_one_line_of_json(found, monkeypatch, capsys):
  about = {'model': 'mini', 'peers': found}
  monkeypatch.setattr(peers, 'measure', lambda args: about)
  assert peers.main(['--json', '--batch=3']) == 0
  said = capsys.readouterr()
  (line,) = said.out.splitlines()
  row = json.loads(line)
  assert row['train_ratio_peft_float32'] == pytest.approx(1 / 4)
  assert row['peers']['ours']['train']['seconds'] == [1.0] * 3
  assert 'training step, s' in said.err and 'peft_float32  0.250' in said.err
  assert peers.main(['--batch=0']) == 2
  told = 'peers.py: --batch is 0; expected at least 1.\n'
  assert capsys.readouterr().err == told


def test_a_worker_that_ends(tmp_path):
  file = tmp_path / 'broken.py'
  file.write_text('import sys; sys.exit(3)')
  with pytest.raises(UserError, match=r'broken.py ended with status 3; expec'):
    peers.Worker([sys.executable, '-P', str(file), 'x', '{}'], {})


def test_sizes_in_their_words():
  config = peers._config('mini', [])
  made = peers.theirs(config)
  assert made['num_layers'] == 3 and made['num_decoder_layers'] == 1
  assert made['feed_forward_proj'] == 'gated-gelu'
  assert not made['tie_word_embeddings']
  config = peers._config('mini', ['T5Config.decoder_d_ff=7'])
  with pytest.raises(UserError, match='expected one width'):
    peers.theirs(config)


class _Pip:
  """Stands for subprocess.run: makes the folder, installs nothing."""

  def __init__(self, fails=()):
    self.commands, self._fails = [], fails

  def __call__(self, command, **_):
    self.commands.append(command)
    if 'venv' in command:
      folder = pathlib.Path(command[-1])
      folder.mkdir(parents=True)
      (folder / 'pyvenv.cfg').write_text('')
    status = int(any(word in command for word in self._fails))
    return types.SimpleNamespace(returncode=status)


def test_an_environment_is_made_once(tmp_path, capsys):
  folder, pip = tmp_path / 'peers', _Pip()
  where = environment.python(folder, run=pip)
  assert where == folder / 'bin' / 'python'
  assert [c[3] for c in pip.commands] == [str(folder), 'install']
  assert environment.python(folder, run=pip) == where
  assert len(pip.commands) == 2
  # other packages: made anew
  environment.python(folder, ['peft'], run=pip)
  assert pip.commands[-1][-1] == 'peft' and len(pip.commands) == 4


def test_half_an_environment_is_no_environment(tmp_path, capsys):
  folder = tmp_path / 'peers'
  with pytest.raises(UserError, match='install .* failed with status 1; exp'):
    environment.python(folder, run=_Pip(fails=['install']))
  (folder / 'half').write_text('')
  pip = _Pip()
  environment.python(folder, run=pip)
  assert len(pip.commands) == 2 and not (folder / 'half').exists()


def test_a_folder_of_something_else_stays(tmp_path):
  (tmp_path / 'thesis.tex').write_text('words')
  with pytest.raises(UserError, match='holds something that is no environme'):
    environment.python(tmp_path, run=_Pip())
  assert (tmp_path / 'thesis.tex').is_file()


def test_the_packages_are_those_of_the_extra():
  text = (pathlib.Path(__file__).parents[2] / 'setup.py').read_text()
  extra = re.search(r"'interop': \[(.*?)\]", text)[1]
  assert re.findall(r"'(.*?)'", extra) == list(environment.PEERS)
