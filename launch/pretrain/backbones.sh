#!/usr/bin/env bash
# Makes the shipped backbones from the data folder: hours on two cores. Started
# again, it goes on where it was, training at its newest checkpoint.
#   bash launch/pretrain/backbones.sh DATA [FOLDER] [MODEL ...]
# midi grows from the trained mini of the same FOLDER, so mini comes first.
# Run it in the checkout; PYTHON names the interpreter, with the extra
# `pretrain` installed.
set -euo pipefail
data=${1:?the folder with tasks/, text/ and vocab/}
folder=${2:-runs/pretrain}
models=("${@:3}")
[ "${#models[@]}" -gt 0 ] || models=(mini midi)
python=${PYTHON:-python}
declare -A width=([mini]=128 [midi]=256)
# steps at the full rate, then to zero, and the rates: see README.md
declare -A steps=([mini]=17600 [midi]=9000) decay=([mini]=6000 [midi]=5000)
declare -A rate=([mini]=1e-3 [midi]=5e-4) source_rate=([mini]=1e-2 [midi]=5e-3)
declare -A batch=([mini]=1.0 [midi]=0.5)
declare -A grown_from=([midi]=mini)
for model in "${models[@]}"; do
  [ -n "${width[$model]:-}" ] || {
    echo "unknown model '$model'; expected one of: ${!width[*]}" >&2
    exit 2
  }
done
mkdir -p "$folder"

# Every file that is asked for is written whole or not at all.
if [ ! -e "$folder/mixture.npz" ]; then
  $python -m launch.pretrain.tasks --source "$data" --out "$folder/data"
  $python -m launch.pretrain.spans --source "$data" --out "$folder/data/spans"
  # the slow one; words are its last
  [ -e "$folder/teacher/words.npz" ] || $python -m launch.pretrain.teacher \
    --source "$data" --out "$folder/teacher"
  $python -m launch.pretrain.mixture --source "$data" --tasks "$folder/data" \
    --teacher "$folder/teacher" --out "$folder/mixture.npz"
fi

train() { # model, steps, schedule, steps before it falls
  local source=None
  [ -z "${grown_from[$1]:-}" ] || source="$folder/start_$1/source.npz"
  $python -m prompt_jax.train --gin_file="models/$1.gin" \
    --gin_file=launch/pretrain/pretrain.gin --gin.START="$folder/start_$1" \
    --gin.MIXTURE="$folder/mixture.npz" --gin.MODEL_DIR="$folder/$1" \
    --gin.SOURCE_START="$source" --gin.RATE="${rate[$1]}" \
    --gin.SOURCE_RATE="${source_rate[$1]}" \
    --gin.rows.Rows.batch_scale="${batch[$1]}" \
    --gin.TRAIN_STEPS="$2" --gin.SCHEDULE="$3" --gin.WARMUP_STEPS="$4"
}

for model in "${models[@]}"; do
  if [ ! -e "$folder/start_$model" ]; then
    $python -m launch.pretrain.embeddings --width "${width[$model]}" \
      --rows 8192 --model "$data/vocab/en_unigram_8000.model" \
      --out "$folder/embedding_${width[$model]}.npy"
    if [ -n "${grown_from[$model]:-}" ]; then
      $python -m launch.pretrain.grow --gin_file="models/$model.gin" \
        --embeddings "$folder/embedding_${width[$model]}.npy" \
        --model_dir "$folder/${grown_from[$model]}" \
        --out "$folder/start_$model"
    else
      $python -m launch.pretrain.start --gin_file="models/$model.gin" \
        --embeddings "$folder/embedding_${width[$model]}.npy" \
        --out "$folder/start_$model"
    fi
  fi
  train "$model" "${steps[$model]}" constant 200
  train "$model" "$((steps[$model] + decay[$model]))" linear "${steps[$model]}"
  rm -rf "$folder/shipped_$model"
  $python -m launch.pretrain.ship --model_dir "$folder/$model" \
    --mixture "$folder/mixture.json" --out "$folder/shipped_$model"
done
