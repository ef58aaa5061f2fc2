#!/bin/bash
# Keys for your Dask clusters, once: afterwards schedulers, workers and patchcl talk by TLS, to nobody without these keys.
#
#   bash examples/dask_keys.sh            # into ~/.config/dask, where Dask looks; a home that all machines share
#   bash examples/dask_keys.sh FOLDER     # into another folder that all see; then `export DASK_CONFIG=FOLDER` everywhere
#
# Dask runs any program for whoever reaches its ports, so on more than one machine the keys are what keeps others out:
# whoever can read them is in. Keys that are there stay; to make new ones remove tls.yaml, cert.pem and key.pem first.
set -euo pipefail

folder=${1:-$HOME/.config/dask}
umask 077
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
if [ -e "$folder/tls.yaml" ]; then
    echo "$folder/tls.yaml is there already, and stays."
    exit
fi
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=dask \
    -addext keyUsage=critical,digitalSignature,keyCertSign -keyout "$folder/key.pem" -out "$folder/cert.pem"
pair="{cert: \"$folder/cert.pem\", key: \"$folder/key.pem\"}"
cat >"$folder/tls.yaml" <<END
distributed:
  comm:
    default-scheme: tls
    require-encryption: true
    tls:
      ca-file: "$folder/cert.pem"
      scheduler: $pair
      worker: $pair
      client: $pair
END
echo "Wrote $folder/tls.yaml, cert.pem and key.pem."
