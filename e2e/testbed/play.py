"""A cluster for a person: Forebay installed, a function applied, what to type next. Run inside by `make cluster`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from testbed import release
from testbed.cluster import Cluster
from testbed.programs import cache
from testbed.shell import Failed, run

CHECKPOINT = "smollm2-135m-instruct-fp32"
FUNCTION = """apiVersion: forebay.dev/v1alpha1
kind: LLMFunction
metadata:
  name: smollm2
  namespace: default
spec:
  model:
    uri: {uri}
  scaling:
    minReplicas: 0
    maxReplicas: 2
"""
NEXT = """
Forebay runs on two nodes with two workers each. In another terminal:

  {enter} kubectl get wpool,pods -n {namespace}
  {enter} kubectl get llmfn -w
  {enter} curl -s http://forebay-gateway.{namespace}.svc/default/smollm2/v1/chat/completions \\
      -H 'Content-Type: application/json' \\
      -d '{{"messages": [{{"role": "user", "content": "Hello"}}], "max_tokens": 60}}'
  {enter}                        a shell inside, with kubectl and helm

Ctrl-C takes all of it down.
"""


def main() -> None:
    cluster = Cluster.at(Path(os.environ["FOREBAY_TESTBED"]))
    from forebay_worker.model.make import write_smollm2

    checkpoint = cache() / "models" / CHECKPOINT
    write_smollm2(checkpoint, lambda what, fraction: None)
    uri = release.prepare(cluster, checkpoint)
    print("▸ installing the chart", flush=True)
    release.install(cluster, release.Settings(workers=2))
    run("kubectl", "apply", "-f", "-", stdin=FUNCTION.format(uri=uri))
    print(NEXT.format(enter=cluster.enter, namespace=release.NAMESPACE), flush=True)
    signal.pause()


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass
