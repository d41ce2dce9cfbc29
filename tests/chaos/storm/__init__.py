"""Many scripted jobs on both targets while everything that serves them is killed again and again.

    python -m tests.chaos.storm --jobs 200 --minutes 6 --seed 7

Real are the API server, etcd, the Job controller, MLflow and the operators, of which two run; the
workspace of CML is the simulator. Trainings end as their job's course says, within seconds. In the
end everything is counted: one Job for each attempt, one CML job, one run at a time, one version,
one move of its alias, nothing left over, and no job that was complete and is so no more.
"""
