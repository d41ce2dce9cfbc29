"""Schedules of everything that can happen, in virtual time: finds faults before a user does.

The operator is the real one: reconciler, cache, queue, feed, actor, observers, decisions, the
Kubernetes backend and the code of the API client. Everything around it is a model, and the clock
jumps to whatever is due next, so a day takes milliseconds.

    python -m tests.simulation --schedules 10000         # look for counterexamples
    python -m tests.simulation --seed 4711               # tell one schedule as a story
    python -m tests.simulation --seed 4711 --steps 0,3,5 # ... with these steps of it alone

How it works
    A seed draws a *schedule*: what users, controllers, networks and clocks do, and when
    (``steps``, ``faults``). It is carried out in a ``World``; afterwards every fault heals, nobody
    touches anything any more and time runs on until the world is quiet. ``invariants`` hold then;
    some are checked all the way. What fails is shrunk by leaving steps out, and told in time order.

What is modelled
    * the API server (``api_server``): versions, generations, the status subresource, merge and
      JSON patches, PUT, conflicts, preconditions by uid, finalizers, namespaces that end,
      admission that refuses (403, 422) and relents;
    * CRDs that are deleted and made again (``definitions``), and what is no longer served
      meanwhile;
    * garbage collection by owner references, in the background, the foreground and orphaning;
    * the Job controller and the kubelet (``jobs``): pods, conditions, replacement after an
      eviction, suspension by a queue, deadlines of Jobs, deletion with grace, Events of pods that
      are refused;
    * what runs do (``runs``): they take their time, succeed, fail, are evicted, and report to a
      tracking server;
    * the tracking server (``tracker``): away, slow, refusing, answers that are lost;
    * the network to the API server (``network``): errors before and after the effect, timeouts;
    * watches as kopf has them (``watches``): they lag, break, are continued or listed anew, which
      tells nothing of what is gone;
    * the operator's crashes, at any request before or after its effect, and its restarts.

What is not
    Several workers of one job, nodes and their resources, the scheduler's reasons, images,
    kubetune's CRD rules (users in the schedules keep to them), server-side apply's field owners,
    the wire format of MLflow and CML.

``test_honest`` and ``test_honest_definitions`` replay schedules of requests against a real API
server and compare the answers.
"""
