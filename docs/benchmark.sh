#!/usr/bin/env bash
# The benchmark in docs/benchmark: three datasets, nnU-Net's default plans, default options, 15 minutes of training for
# every network, one after the other on an otherwise idle machine.
#   docs/benchmark.sh RAW_FOLDER WORK_FOLDER [REPORT_FOLDER]
# RAW_FOLDER holds Dataset513_STS_PET, Dataset512_STS_MRT1 and Dataset004_Hippocampus. About 4 hours on 2 cores without a
# GPU; interrupted, the same command goes on where it was. MINUTES=30 trains for another time; PARTS="pet" does one part;
# ARMS="SAM3DAdapterTrainer nnUNetClickTrainer" takes these arms only.
# Predictions run in two processes of one thread each.
set -euo pipefail
export nnUNet_raw=$1 work=$2
export nnUNet_preprocessed=$work/preprocessed nnUNet_results=$work/results
export nnUNet_n_proc_DA=1 nnUNet_def_n_proc=2 OMP_WAIT_POLICY=passive MPLBACKEND=Agg
mkdir -p "$nnUNet_preprocessed" "$nnUNet_results" "$work/logs"

run() { # part dataset folds
  local part=$1 dataset=$2
  shift 2
  if ! compgen -G "$nnUNet_preprocessed/$(printf 'Dataset%03d_*' "$dataset")/nnUNetPlans_3d_fullres" >/dev/null; then
    nnUNetv2_plan_and_preprocess -d "$dataset" -c 3d_fullres --verify_dataset_integrity >"$work/logs/plan_$part.txt" 2>&1
  fi
  nnsam3d benchmark run -d "$dataset" -c 3d_fullres -f "$@" -o "$work/$part" --to "${report:-$work/report}/$part" \
    --train --train-minutes "${MINUTES:-15}" --protocols iterative --seeds 0 1 2 --clicks 10 --disable_tta --jobs 2 \
    -device cpu ${ARMS:+--arms $ARMS}
}

report=${3:-}
for part in ${PARTS:-pet mr hippocampus}; do
  case $part in
    pet) run pet 513 0 1 2 ;;
    mr) run mr 512 0 ;;
    hippocampus) run hippocampus 4 0 ;;
    *) echo "unknown part $part: pet, mr or hippocampus" >&2; exit 1 ;;
  esac
done
