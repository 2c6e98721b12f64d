"""T5X checkpoints: both layouts, a bucket, and everything torn."""

import http.server
import json
import pathlib
import shutil
import threading
import urllib.parse

from flax import serialization
import ml_dtypes
import numpy as np
import orbax.checkpoint
import pytest

from prompt_jax.t5 import pretrained, t5x_checkpoint
from tests.t5.bases import (
  QUERY,
  assert_equal,
  expected,
  fails,
  weights,
  write_native,
  write_zarr,
)


@pytest.mark.parametrize('top_level', [False, True])
def test_native_loads_wherever_the_path_is_kept(tmp_path, top_level):
  path = write_native(tmp_path / 'a', weights(), top_level=top_level)
  assert_equal(pretrained.load(path, expected()), weights())
  # moved: what the checkpoint says about its own place is not used
  moved = str(shutil.move(path, tmp_path / 'b'))
  assert_equal(pretrained.load(moved, expected()), weights())


def test_native_state_leaves_nil_out(tmp_path):
  path = write_native(tmp_path / 'a', weights())
  state = t5x_checkpoint.read_state(path)
  assert sorted(key for key in state if not key.startswith('target/')) == [
    'state/param_states/prompt/v',
    'state/step',
  ]
  assert pretrained.identity(path)['step'] == 41


def test_native_keeps_bfloat16(tmp_path):
  half = {k: w.astype(ml_dtypes.bfloat16) for k, w in weights().items()}
  path = write_native(tmp_path / 'a', half)
  assert_equal(pretrained.load(path, expected()), half)
  whole = pretrained.load(path, expected(), dtype='float32')
  assert_equal(whole, {k: w.astype(np.float32) for k, w in half.items()})


def test_native_joins_a_chunked_inline_array(tmp_path, monkeypatch):
  monkeypatch.setattr(serialization, 'MAX_CHUNK_SIZE', 64)
  long = {'long/scale': np.arange(101, dtype=np.float32)}
  path = write_native(tmp_path / 'a', long)
  assert_equal(pretrained.load(path, long), long)


def test_orbax_layout(tmp_path):
  native = write_native(tmp_path / 'a', weights())
  state = t5x_checkpoint.read_state(native)
  folder = tmp_path / 'checkpoint_41'
  tree = {}
  for key, array in state.items():
    *parents, name = key.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = array
  tree['state']['unowned'] = None
  with orbax.checkpoint.PyTreeCheckpointer() as checkpointer:
    checkpointer.save(folder / 'state', tree)
  assert pretrained.inspect(str(folder))[0] == 'orbax'
  found = t5x_checkpoint.read_state(str(folder))
  assert found.keys() == state.keys()
  for key, array in state.items():
    np.testing.assert_array_equal(found[key], array, err_msg=key)
  assert_equal(pretrained.load(str(folder), expected()), weights())
  assert pretrained.identity(str(folder))['step'] == 41

  for file in (folder / 'state').rglob('*'):
    if file.parent.name == 'd':
      file.write_bytes(file.read_bytes()[:-7])
  fails(
    lambda: t5x_checkpoint.read_state(str(folder)), f'{folder}/state', 'again'
  )


class _Bucket(http.server.BaseHTTPRequestHandler):
  """As much of Google storage as reading and listing takes."""

  root: pathlib.Path

  def do_GET(self):
    url = urllib.parse.urlparse(self.path)
    name = urllib.parse.unquote(url.path.split('/o', 1)[1].lstrip('/'))
    code, body = 404, b''
    if not name:
      query = urllib.parse.parse_qs(url.query)
      names = sorted(
        str(file.relative_to(self.root))
        for file in self.root.rglob('*')
        if file.is_file()
      )
      low, high = query['startOffset'][0], query['endOffset'][0]
      items = [
        {'name': n, 'size': '1', 'generation': '1'}
        for n in names
        if low <= n < high
      ]
      code, body = 200, json.dumps({'items': items}).encode()
    elif (self.root / name).is_file():
      code, body = 200, (self.root / name).read_bytes()
    self.send_response(code)
    self.send_header('Content-Length', str(len(body)))
    self.send_header('x-goog-generation', '1')
    self.end_headers()
    self.wfile.write(body)

  def log_message(self, *args):
    pass


def test_a_bucket_reads_like_a_folder(tmp_path, monkeypatch):
  sizes = {'layers': (1, 1)}
  write_native(tmp_path / 'run/checkpoint_41', weights(**sizes))
  handler = type('Bucket', (_Bucket,), {'root': tmp_path})
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  url = f'http://127.0.0.1:{server.server_port}'
  monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', url)
  monkeypatch.setenv('GOOGLE_AUTH_TOKEN_FOR_TESTING', 'none')
  try:
    path = 'gs://bucket/run/checkpoint_41'
    loaded = pretrained.load(path, expected(**sizes))
    assert_equal(loaded, weights(**sizes))
    about = {'source': path, 'format': 't5x', 'step': 41}
    assert pretrained.identity(path) == about
    fails(lambda: pretrained.inspect('gs://bucket/run'), f'Choose: {path}.')
  finally:
    server.shutdown()
    server.server_close()


def test_a_run_lists_its_checkpoints(tmp_path):
  for step in (9, 10):
    write_native(tmp_path / f'run/checkpoint_{step}', {})
  fails(
    lambda: pretrained.load(str(tmp_path / 'run'), expected()),
    'a run with 2 checkpoints',
    f'{tmp_path}/run/checkpoint_9, {tmp_path}/run/checkpoint_10',
  )


def test_torn_native_checkpoints_name_the_file(tmp_path):
  folder = tmp_path / 'a'
  path = write_native(folder, weights())
  load = lambda: pretrained.load(path, expected())
  array = folder / ('target.' + QUERY.replace('/', '.'))
  whole = (array / '1.0').read_bytes()
  (array / '1.0').write_bytes(whole[: len(whole) // 2])
  fails(load, str(array), 'copy it again')
  (array / '1.0').unlink()
  fails(load, '1 chunk file', f'{array.name}/1.0', 'Copy it again')
  # known before any weight is read
  fails(lambda: pretrained.inspect(path), f'{array.name}/1.0')
  (array / '.zarray').unlink()
  fails(load, f'{array}/.zarray', 'no such file')
  index = (folder / 'checkpoint').read_bytes()
  (folder / 'checkpoint').write_bytes(index[:-5])
  fails(load, f'{folder}/checkpoint could not be read', 'copy it again')


def test_a_missing_chunk_of_the_optimizer_does_not_stop_the_base(tmp_path):
  folder = tmp_path / 'a'
  path = write_native(folder, weights())
  tree = serialization.msgpack_restore((folder / 'checkpoint').read_bytes())
  metadata = write_zarr(folder / 'slot', np.ones((5, 3), np.float32))
  tree['optimizer']['state']['slot'] = {
    'driver': 'zarr',
    'kvstore': {'driver': 'file', 'path': 'slot/'},
    'metadata': metadata,
  }
  index = serialization.msgpack_serialize(tree)
  (folder / 'checkpoint').write_bytes(index)
  (folder / 'slot/0.0').unlink()
  assert_equal(pretrained.load(path, expected()), weights())
  fails(lambda: t5x_checkpoint.read_state(path), 'slot/0.0')


def test_native_refuses_what_it_cannot_mean(tmp_path):
  old = write_native(tmp_path / 'old', weights(), version=0)
  fails(lambda: pretrained.inspect(old), 'version 0', 'expected 3')
  bits = {'a/kernel': np.ones((5, 3), np.uint16)}
  path = write_native(tmp_path / 'bits', bits)
  fails(lambda: pretrained.inspect(path), 'target/a/kernel as uint16')
  objects = tmp_path / 'objects'
  write_native(objects, {'a/kernel': np.ones((5, 3), np.float32)})
  zarray = objects / 'target.a.kernel/.zarray'
  zarray.write_text(zarray.read_text().replace('<f4', '|O'))
  fails(lambda: pretrained.inspect(str(objects)), str(zarray), 'numbers')
  outside = tmp_path / 'outside'
  write_native(outside, {'a/kernel': np.ones((5, 3), np.float32)})
  index = (outside / 'checkpoint').read_bytes()
  index = index.replace(b'target.a.kernel', b'../../../../etc')
  (outside / 'checkpoint').write_bytes(index)
  fails(lambda: pretrained.inspect(str(outside)), "'../../../../etc'")
  mesh = tmp_path / 'mesh'
  mesh.mkdir()
  (mesh / 'checkpoint').write_text('model_checkpoint_path: "model.ckpt-5"')
  fails(lambda: pretrained.inspect(str(mesh)), 'TensorFlow', 'Convert')


def test_one_array_by_a_wrong_key(tmp_path):
  path = write_native(tmp_path / 'a', weights())
  fails(
    lambda: t5x_checkpoint.read_array(path, 'target/' + QUERY[:-1]),
    f'Nearest: target/{QUERY}',
  )
