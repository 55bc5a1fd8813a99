#!/bin/sh
# Builds the image without any registry, from a Debian that debootstrap makes: sh deploy/container/try_build.sh FOLDER
#
# It needs root, debootstrap, buildah, `make wheel`, 40 GB of disk and about 15 minutes.  FOLDER keeps nothing of it that
# matters.  An index of packages of your own stands in /etc/pip.conf, as everywhere.
set -eu
folder="$(realpath "$1")"
here="$(realpath "$(dirname "$0")/../..")"
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
tool="buildah --root $folder/store --runroot $folder/run"

debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$folder/rootfs"
ln -sf python3 "$folder/rootfs/usr/bin/python"
if [ -e /etc/pip.conf ]; then cp /etc/pip.conf "$folder/rootfs/etc/"; fi
cp -rL /etc/ssl/certs "$folder/rootfs/etc/ssl/"

container="$($tool from scratch)"
$tool copy -q "$container" "$folder/rootfs" /
$tool config --env PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin "$container"
$tool commit -q "$container" localhost/base:latest
$tool rm "$container"

$tool bud --network host --build-arg BASE=localhost/base:latest -f "$here/deploy/container/Containerfile" \
    -t cdi-stream:latest "$here/dist"
container="$($tool from cdi-stream:latest)"
$tool run "$container" -- cdi-stream --version
$tool run "$container" -- cdi-stream plugins
