#!/usr/bin/env bash
# The benchmark in docs/benchmark: three datasets, default options, MINUTES of training for every network (default: 15), one
# after the other on an otherwise idle machine. nnU-Net's default plans, but for the MR images: at their own spacing a patch
# has 1.6 million voxels, of which a CPU trains a dozen in that time, so both axes of a slice and the slices are halved.
#   benchmarks/benchmark.sh RAW_FOLDER WORK_FOLDER [REPORT_FOLDER]
# RAW_FOLDER holds Dataset513_STS_PET, Dataset512_STS_MRT1 and Dataset004_Hippocampus. About 7 hours on 2 cores without a
# GPU; interrupted, the same command continues where it was. MINUTES=30 trains for another time; PARTS="pet" does one part;
# ARMS="SAM3DAdapterTrainer nnUNetClickTrainer" takes these arms only, PROTOCOLS="iterative" these protocols, FOLDS=0 this fold of
# the PET images instead of three, SEEDS=0 this seed of the clicks instead of three. PARTS="starter" measures the model that comes
# with nnsam3d on all cases of the three datasets, of which it has seen none (half an hour). Predictions run in two processes of one thread each.
set -euo pipefail
export nnUNet_raw=$1 work=$2
export nnUNet_preprocessed=$work/preprocessed nnUNet_results=$work/results
export nnUNet_n_proc_DA=1 nnUNet_def_n_proc=2 OMP_WAIT_POLICY=passive MPLBACKEND=Agg
mkdir -p "$nnUNet_preprocessed" "$nnUNet_results" "$work/logs"

baseline=nnUNetBaselineTrainer
arms=${ARMS:-SAM3DAdapterTrainer nnUNetClickTrainer $baseline $baseline+oracle ellipsoid clipped:$baseline starter}
default="iterative box line scribble lasso cvpr25"
if [[ " $arms " == *" $baseline "* ]]; then default+=" start"; fi # from its masks
read -r -a protocols <<<"${PROTOCOLS:-$default}"

plan() { # part dataset plans [options of nnUNetv2_plan_experiment]
  local part=$1 dataset=$2 plans=$3 folder
  shift 3
  folder=$nnUNet_preprocessed/$(printf 'Dataset%03d_*' "$dataset")
  if compgen -G "$folder/${plans}_3d_fullres" >/dev/null; then return; fi
  {
    nnUNetv2_extract_fingerprint -d "$dataset" --verify_dataset_integrity
    nnUNetv2_plan_experiment -d "$dataset" -overwrite_plans_name "$plans" "$@"
    nnUNetv2_preprocess -d "$dataset" -plans_name "$plans" -c 3d_fullres -np 2
  } >"$work/logs/plan_$part.txt" 2>&1
}

run() { # part dataset plans folds
  local part=$1 dataset=$2 plans=$3 arm named=() start
  shift 3
  for arm in $arms; do
    case $arm in
      *+*) named+=("${arm%+*}:$plans+${arm#*+}") ;;
      ellipsoid | starter) named+=("$arm") ;;
      *) named+=("$arm:$plans") ;;
    esac
  done
  if [[ " ${protocols[*]} " == *" start "* ]]; then start=(--start "$baseline:$plans"); else start=(); fi
  # shellcheck disable=SC2086
  nnsam3d benchmark run -d "$dataset" -c 3d_fullres -f "$@" -o "$work/$part" --to "${report:-$work/report}/$part" \
    --train --train-minutes "${MINUTES:-15}" --protocols "${protocols[@]}" "${start[@]}" --seeds ${SEEDS:-0 1 2} --clicks 10 \
    --disable_tta --jobs 2 -device cpu --arms "${named[@]}"
}

report=${3:-}
for part in ${PARTS:-pet mr hippocampus}; do
  case $part in
    pet)
      plan pet 513 nnUNetPlans
      # shellcheck disable=SC2086
      run pet 513 nnUNetPlans ${FOLDS:-0 1 2}
      ;;
    mr)
      plan mr 512 nnUNetPlansCoarse -overwrite_target_spacing 6.54 1.95 1.95
      run mr 512 nnUNetPlansCoarse 0
      ;;
    hippocampus)
      plan hippocampus 4 nnUNetPlans
      run hippocampus 4 nnUNetPlans 0
      ;;
    starter)
      for name in Dataset513_STS_PET Dataset512_STS_MRT1 Dataset004_Hippocampus; do
        # shellcheck disable=SC2086
        nnsam3d benchmark run -d "$name" -o "$work/starter/$name" --to "${report:-$work/report}/starter/$name" --arms starter ellipsoid \
          --test-images "$nnUNet_raw/$name/imagesTr" --test-labels "$nnUNet_raw/$name/labelsTr" --seeds ${SEEDS:-0 1} --clicks 10 \
          --protocols ${PROTOCOLS:-iterative box line scribble lasso} --disable_tta --jobs 2 -device cpu
      done
      ;;
    *) echo "unknown part $part: pet, mr, hippocampus or starter" >&2; exit 1 ;;
  esac
done
