#!/usr/bin/env bash
# The benchmark in docs/benchmark: soft-tissue sarcoma PET (41 patients), fold 0, CPU, 20 minutes of training per arm.
#   docs/benchmark_sts_pet.sh RAW_FOLDER WORK_FOLDER [REPORT_FOLDER]
# RAW_FOLDER holds Dataset513_STS_PET. About 75 minutes on 2 idle cores; interrupted, the same command goes on.
# MINUTES=30 trains for another time; predictions run in two processes of one thread each.
set -euo pipefail
export nnUNet_raw=$1 work=$2
export nnUNet_preprocessed=$work/preprocessed nnUNet_results=$work/results
export nnUNet_n_proc_DA=1 nnUNet_def_n_proc=2 OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 MPLBACKEND=Agg
mkdir -p "$nnUNet_preprocessed" "$nnUNet_results" "$work/logs"
if [ ! -f "$nnUNet_preprocessed/Dataset513_STS_PET/nnUNetPlans.json" ]; then
  nnUNetv2_plan_and_preprocess -d 513 -c 3d_fullres --verify_dataset_integrity >"$work/logs/plan.txt" 2>&1
fi
nnsam3d benchmark run -d 513 -c 3d_fullres -f 0 -o "$work/benchmark" --to "${3:-$work/benchmark}" -device cpu \
  --train --train-minutes "${MINUTES:-20}" \
  --options "preset=tiny learning_rate=1e-3 num_iterations_per_epoch=20 num_val_iterations_per_epoch=2" \
  --protocols ${PROTOCOLS:-iterative center} --seeds 0 1 2 --clicks 10 --disable_tta --jobs 2
