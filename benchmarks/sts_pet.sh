#!/usr/bin/env bash
# Soft-tissue sarcoma PET (41 patients), fold 0, CPU: SAM3DAdapterTrainer (on a CPU tiny, from scratch) with 0, 1 and 5
# simulated clicks beside nnU-Net's U-Net, trained for the same wall-clock time on the same fold.
#   benchmarks/sts_pet.sh RAW_FOLDER WORK_FOLDER     RAW_FOLDER holds Dataset513_STS_PET; about 60 minutes on 2 cores
set -euo pipefail
export nnUNet_raw=$1 work=$2
export nnUNet_preprocessed=$work/preprocessed nnUNet_results=$work/results
export nnUNet_n_proc_DA=1 nnUNet_def_n_proc=2 OMP_WAIT_POLICY=passive MPLBACKEND=Agg
nnUNet_extTrainer=$(nnsam3d link --print-path)
export nnUNet_extTrainer
mkdir -p "$nnUNet_preprocessed" "$nnUNet_results" "$work/logs"

# The same wall-clock time for both; both learning rates decay over it.
options="max_minutes=${MINUTES:-20}"

train() { # name, trainer, options, more flags
  local name=$1 trainer=$2 options=$3 start=$SECONDS
  shift 3
  echo "== $name: nnsam3d_options=\"$options\" nnUNetv2_train 513 3d_fullres 0 -tr $trainer -device cpu $*"
  nnsam3d_options=$options nnUNetv2_train 513 3d_fullres 0 -tr "$trainer" -device cpu "$@" >"$work/logs/$name.txt" 2>&1
  echo "   $((SECONDS - start)) s in all (training and final validation); $(grep 'Mean Validation Dice' "$work/logs/$name.txt" | tail -n 1)"
}

nnUNetv2_plan_and_preprocess -d 513 -c 3d_fullres --verify_dataset_integrity >"$work/logs/plan.txt" 2>&1
train unet nnUNetBaselineTrainer "$options"
train sam_1_click SAM3DAdapterTrainer "$options" --npz
for clicks in 0 5 1; do # ends with 1, the default, for whatever comes next
  train "sam_val_${clicks}_clicks" SAM3DAdapterTrainer "validation_clicks=$clicks" --val --npz
  cp "$nnUNet_results"/Dataset513_STS_PET/SAM3DAdapterTrainer__nnUNetPlans__3d_fullres/fold_0/validation/summary.json \
    "$work/summary_${clicks}_clicks.json"
done

echo "== two held-back cases from prompt files"
fold=$nnUNet_results/Dataset513_STS_PET/SAM3DAdapterTrainer__nnUNetPlans__3d_fullres/fold_0
mkdir -p "$work/images" "$work/labels"
for prompts in $(find "$fold/validation_prompts" -name '*.json' | sort | head -n 2); do
  case=$(basename "$prompts" .json)
  cp "$nnUNet_raw/Dataset513_STS_PET/imagesTr/${case}_0000.nii.gz" "$prompts" "$work/images" # prompt file beside the image
  cp "$nnUNet_raw/Dataset513_STS_PET/labelsTr/$case.nii.gz" "$work/labels"
done
nnUNetv2_predict -i "$work/images" -o "$work/predicted" -d 513 -c 3d_fullres -f 0 -tr SAM3DAdapterTrainer -device cpu \
  -npp 1 -nps 1 >"$work/logs/predict.txt" 2>&1
nnUNetv2_evaluate_simple "$work/labels" "$work/predicted" -l 1 -o "$work/predicted_summary.json" >"$work/logs/evaluate.txt" 2>&1
python - "$work/predicted_summary.json" <<'PYTHON'
import json, pathlib, sys
for case in json.loads(pathlib.Path(sys.argv[1]).read_text())["metric_per_case"]:
    print(f"   {pathlib.Path(case['prediction_file']).name}: Dice {case['metrics']['1']['Dice']:.3f}")
PYTHON
