#!/usr/bin/env bash
# Makes the demo bundle, demo.dfer: a small CLIP is taught faces, frozen, and Align-DFER trained on its features by BAP.
#
#   runtime/assets/make_demo.sh STILLS_CSV WORK_FOLDER
#
# STILLS_CSV: photographs of aligned faces, columns image,label,person,split (see train/data/stills.py). The bundle in
# this folder was made from about 9,400 grey stills, split train; about an hour on two cores. Needs: pip install -e ".[export]"
set -euo pipefail
stills=$1 work=$2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work"

dfer-pretrain "$work/faces.pt" --clip dfer-small --grey --stills "$stills" --stills-share 0.72 --identities 240 \
    --steps 7000 --balance 0.65
dfer-train "$work/demo.pt" --clip dfer-small --pretrained "$work/faces.pt" --stills "$stills" --stills-most 1500 \
    --views 3 --epochs 24,20,20 --depth 1,2,2 --ema 0.99 --precision bf16
dfer-export --ckpt "$work/demo.pt" --out "$here/demo.dfer"

# The figures of the model card.
dfer-eval "$here/demo.dfer" --stills "$stills"
dfer-eval "$here/demo.dfer" --identities 40
dfer-eval "$here/demo.dfer" --identities 40 --shuffle-frames
