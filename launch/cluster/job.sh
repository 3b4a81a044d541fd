# From here on all jobs are the same.

job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
note=$notes/$job log=$notes/${job}_0_log.out  # of this script too
say() { echo "fcmae: error: $*"; }
value() { sed -n "s/.* $1=\([^ ]*\).*/\1/p" <<< "$shown"; }  # of what scontrol shows
if ! touch "$notes/.writable"; then
  say "$notes cannot be written on $(hostname): choose --out on a file system that all machines share"
  exit 2
fi
rm -f "$note".{stopped,terminated,final,done}  # of an earlier start: what decides about this one is its own

# A start that was cut short could not note why.
cut=$(grep -s 'JOB .* DUE TO PREEMPTION' "$log" | grep -vxFf <(cat "$note.preempted" 2> /dev/null))
[ -n "$cut" ] && echo "$cut" >> "$note.preempted"

# Starts that find the newest checkpoint where the last ones found it make no progress.
step=0
for file in "$run"/checkpoints/step_*; do
  [[ ${file##*/} =~ ^step_([0-9]+)(\.pt)?$ ]] && step=$((10#${BASH_REMATCH[1]}))
done
echo "on $SLURM_JOB_NODELIST after step $step" >> "$note.started"
if [ "$(grep -c " step $step\$" "$note.started")" -gt "$stalls" ]; then
  say "$stalls starts in a row saved nothing after step $step, and so another is of no use: ask for more" \
    "--time, lower loop.save_minutes, or see above why they ended"
  exit 1
fi

if setup; then
  export SUBMITIT_EXECUTOR=slurm PYTHONSAFEPATH=1 PYTHONPATH=$code
  starts=$(wc -l < "$note.started")  # where a port was in use, the next start takes another one
  export MASTER_PORT=${MASTER_PORT:-$((20000 + (17 * SLURM_JOB_ID + 7919 * starts) % 40000))}
  from=$(($(cat "$log" 2> /dev/null | wc -c) + 1))
  trap : TERM USR2  # are for the processes, and what comes after them has to be done
  srun --kill-on-bad-exit=1 "${srun[@]}" \
    bash -c 'exec "$@" >> "${0}_${SLURM_PROCID}_log.out" 2>&1' "$note" "${python[@]}" \
    -u -m fcmae.launch.cluster.process "$note" "$run" "${fcmae[@]}"
  status=$?
else
  status=1
  say "--setup failed on $(hostname)"
fi
[ -e "$note.done" ] && exit 0  # whatever came while the processes shut down
[ $status -eq 0 ] && status=1  # not done: what waits for this job must not start

for wait in 0 5 30; do
  sleep $wait
  shown=$(scontrol -o show job "$job") && break
done
# A site's signal for preemption may be SIGTERM, as is that of scancel. Times compare as text.
preempted=
[[ $(value PreemptTime) > $(value StartTime) && $(value PreemptTime) == [0-9]* ]] && preempted=yes
if [[ $shown && $(value JobState) != RUNNING ]]; then
  exit $status  # SLURM has ended the job, or queues it again by itself
elif [ -e "$note.final" ]; then
  exit $status
elif [ -n "$preempted" ]; then
  echo "on $SLURM_JOB_NODELIST" >> "$note.preempted"
elif [ ! -e "$note.stopped" ]; then
  [ -e "$note.terminated" ] && exit $status
  failure=$(tail -c +"${from:-1}" "$log" 2> /dev/null |
    sed -n 's/^srun: error: \([^:]*\): tasks\{0,1\} \([0-9]*\)[^:]*: \(.*\)/process \2: \3 on \1/p' | head -1)
  echo "${failure:-exit status $status on $SLURM_JOB_NODELIST}" >> "$note.failed"
  [ "$(wc -l < "$note.failed")" -gt "$retries" ] && exit $status
fi
for wait in 1 5 15; do
  scontrol requeue "$SLURM_JOB_ID" && exit $status
  sleep $wait
done
say "SLURM does not queue job $job again: submit it again, and it goes on"
exit $status
