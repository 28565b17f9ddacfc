#!/bin/sh
# sh tools/certs.sh FOLDER [HOST]: a private authority, a certificate of it for the cloud at HOST, and one for a device.
set -eu
folder=${1:?"usage: sh tools/certs.sh FOLDER [HOST]"}
host=${2:-localhost}
command -v openssl >/dev/null || { echo "openssl is missing (Debian: apt install openssl)" >&2; exit 1; }
[ ! -e "$folder/ca.key" ] || { echo "$folder/ca.key exists: remove the folder to begin again" >&2; exit 1; }
umask 077
mkdir -p "$folder"
curve="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
openssl req -x509 $curve -keyout "$folder/ca.key" -out "$folder/ca.pem" -days 3650 -subj "/CN=Hedge private authority" 2>/dev/null

# issue NAME SUBJECT EXTENSIONS
issue() {
	openssl req $curve -keyout "$folder/$1.key" -out "$folder/$1.csr" -subj "/CN=$2" 2>/dev/null
	printf "%s\n" "$3" > "$folder/$1.ext"
	openssl x509 -req -in "$folder/$1.csr" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" -CAcreateserial -days 825 \
		-out "$folder/$1.pem" -extfile "$folder/$1.ext" 2>/dev/null
	rm "$folder/$1.csr" "$folder/$1.ext"
}

case $host in
	*[!0-9.]*) names="DNS:$host" ;;
	*) names="IP:$host" ;;
esac
issue server "$host" "subjectAltName=$names,DNS:localhost,IP:127.0.0.1
extendedKeyUsage=serverAuth"
issue device "device" "extendedKeyUsage=clientAuth"
echo "$folder: ca.pem, server.pem and server.key for $host, device.pem and device.key"
