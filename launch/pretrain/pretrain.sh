#!/usr/bin/env bash
# Makes the shipped base `mini` from the data folder, in about 25 minutes on
# two cores. Started again, training goes on from its newest checkpoint.
#   bash launch/pretrain/pretrain.sh DATA [FOLDER]
set -euo pipefail
data=${1:?the folder with tasks/, text/ and vocab/}
folder=${2:-runs/pretrain}
python=${PYTHON:-python}
export PRETRAIN_DATA="$folder/data"

if [ ! -e "$folder/start" ]; then
  $python -m launch.pretrain.tasks --source "$data" --out "$folder/data"
  $python -m launch.pretrain.spans --source "$data" --out "$folder/data/spans"
  $python -m launch.pretrain.embeddings --width 128 --rows 8192 \
    --model "$data/vocab/en_unigram_8000.model" --out "$folder/embedding.npy"
  $python -m launch.pretrain.start --gin_file=models/mini.gin \
    --embeddings "$folder/embedding.npy" --out "$folder/start"
fi
$python -m prompt_jax.train --gin_file=models/mini.gin \
  --gin_file=launch/pretrain/pretrain.gin --gin_file=runs/train.gin \
  --gin.MIXTURE_OR_TASK_NAME=pretrain \
  --gin.MIXTURE_OR_TASK_MODULE=launch.pretrain.registered \
  --gin.INITIAL_CHECKPOINT_PATH="$folder/start" \
  --gin.train.Run.evaluations='()' --gin.EVAL_PERIOD=500 \
  --gin.TASK_FEATURE_LENGTHS="{'inputs': 48, 'targets': 12}" \
  --gin.BATCH_SIZE=68 --gin.TRAIN_STEPS="${STEPS:-6000}" \
  --gin.LOSS_NORMALIZING_FACTOR=NUM_REAL_TARGET_TOKENS \
  --gin.SCHEDULE=cosine --gin.WARMUP_STEPS=100 --gin.FINAL_FRACTION=0.05 \
  --gin.MODEL_DIR="$folder/mini"
$python -m prompt_jax.cli export --model_dir="$folder/mini" --whole \
  --dtype=bfloat16 --output="$folder/export"
