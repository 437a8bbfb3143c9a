#!/usr/bin/env bash
# Makes the demo bundle, demo.dfer, and the weights of `--pretrained demo`: a small CLIP is taught faces, a second one
# with the first as teacher, and that one goes on with itself as teacher, which does not see the hands painted before
# faces; it is frozen, and Align-DFER trained on its features by BAP.
#
#   runtime/assets/make_demo.sh FERPLUS STILLS_CSV WORK_FOLDER
#
# FERPLUS: photographs with votes, and their table votes.csv (columns image,split and a column of votes for each class).
# STILLS_CSV: photographs of aligned faces, columns image,label,person,split. About two and a half hours on two cores with AMX.
# Needs: pip install -e ".[export]"
set -euo pipefail
ferplus=$1 stills=$2 work=$3
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work"

dfer-prepare "$ferplus/votes.csv" "$work/ferplus" --photos
# A tenth of the training photographs, split "tune", is for choices and calibration: no encoder learns from it.
python - "$work/ferplus/labels.csv" <<'PYTHON'
import csv, sys
from pathlib import Path
import numpy as np
from dfer.runtime.labels import EXPRESSIONS
table = Path(sys.argv[1])
rows = [row for row in csv.DictReader(table.open()) if any(float(row[name] or 0) for name in EXPRESSIONS)]
train = [index for index, row in enumerate(rows) if row["split"] == "train"]
for index in np.random.default_rng(12).permutation(train)[: len(train) // 10]:
    rows[index]["split"] = "tune"
with table.with_name("tuned.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
PYTHON
votes=$work/ferplus/tuned.csv

teach() {
    dfer-pretrain "$@" --clip dfer-small --grey --stills "$votes" --stills-share 0.84 --stills "$stills" \
        --stills-share 0.09 --identities 240 --compile
}
teach "$work/teacher.pt"
teach "$work/second.safetensors" --teacher "$work/teacher.pt" --balance 0.4
teach "$here/../../train/models/weights/demo.safetensors" --pretrained "$work/second.safetensors" \
    --teacher "$work/second.safetensors" --balance 0.4 --steps 1500 --learning-rate 0.0007

dfer-train "$work/demo.pt" --pretrained demo --stills "$votes" --stills-most 6000 --stills-share 0.75 \
    --validation-split tune --views 1 --epochs 10,9,9 --depth 1,2,2 --ema 0.99 --balance 0 --span 0.6 --history 0.5
dfer-export --ckpt "$work/demo.pt" --out "$work/demo.dfer" --int8 --int8-for cpu --calib "$stills" --window 1.2
rm -r "$here/demo.dfer"
cp -r "$work/demo.dfer" "$here/"

# The figures of the model card.
dfer-eval "$here/demo.dfer" --stills "$votes" --precision fp32
dfer-eval "$here/demo.dfer" --stills "$stills" --precision fp32
dfer-eval "$here/demo.dfer" --identities 40 --precision fp32
dfer-eval "$here/demo.dfer" --identities 40 --shuffle-frames --precision fp32
