# Turn a NoCloud seed into statements for `provision`, one on a line: a word, then fields, with "|"
# between them. In a field, a backslash, a newline, "|" and NUL are escaped as printf's %b undoes it.
#
# Each top-level key of the seed's documents has to stand on its own line with a JSON value, which is
# how vmctl writes them. That is not all of YAML, but needs no YAML parser.

def trim: sub("^\\s+"; "") | sub("\\s+$"; "");

def document:
  split("\n")
  | map(
      select(.[:1] >= "A" and .[:1] <= "z")
      | index(":") as $colon
      | select($colon != null)
      # What isn't JSON is a plain YAML string.
      | {(.[:$colon]): (.[$colon + 1:] | . as $value | try fromjson catch ($value | trim))}
    )
  | add // {};

def list: if . == null then [] elif type == "array" then . else [.] end;
def text: if . == null then "" elif type == "string" then . else tojson end;
def yes($wanted): if . == $wanted then "yes" else "no" end;

def replace($old; $new): split($old) | join($new);
def field:
  text | replace("\\"; "\\\\") | replace("\n"; "\\n") | replace("|"; "\\0174") | replace("\u0000"; "\\0000");
def statement($word): map(field) | [$word] + . | join("|");

def users:
  .users | list[] | select(type == "object" and .name != null)
  | .name as $name
  | ([$name, .shell, .homedir, .uid, (.system | yes(true)),
      (.groups | if type == "array" then join(",") else text | replace(" "; "") end),
      (.lock_passwd | yes(false)), .passwd // .hashed_passwd, .plain_text_passwd, .gecos]
     | statement("user")),
    (.ssh_authorized_keys | list[] | [$name, .] | statement("user-key")),
    (.sudo | list[] | strings | [$name, .] | statement("sudo"));

def files($word; $deferred):
  .write_files | list[] | select((.defer == true) == $deferred)
  | [.path, .permissions // "0644", .owner // "root:root", .encoding, (.append | yes(true)), .content]
  | statement($word);

def host_keys: .ssh_keys // {} | to_entries[] | [.key, .value] | statement("host-key");

# As cloud-init does it: a string is a line of the script, a list is a command whose words are quoted.
def commands:
  .runcmd | list[] | [if type == "array" then map(text) | @sh else text end] | statement("run");

# Lines of `network`'s configuration consist of words, so what isn't a word is left out.
def word: text | if test("^[A-Za-z0-9.:/_-]+$") then . else "-" end;
def line: [map(word) | join(" ")] | statement("network");

def network:
  (.network // .) | .ethernets // {} | to_entries[]
  | ((.value.match.macaddress | strings | ascii_downcase) // .value.match.name // .key) as $match
  | .value
  | (["nic", $match, .["set-name"], .dhcp4 // false, .mtu] | line),
    (.addresses | list[] | ["addr", $match, if type == "object" then keys[0] else . end] | line),
    ((.gateway4, .gateway6) | strings | ["route", $match, "default", ., null, null] | line),
    (.routes | list[]
     | ["route", $match, (if .to == "0.0.0.0/0" or .to == "::/0" then "default" else .to end),
        .via, .metric, (if .["on-link"] == true then "onlink" else null end)] | line),
    (.nameservers.addresses | list[] | ["dns", .] | line),
    (.nameservers.search | list[] | ["search", .] | line);

def known:
  ["hostname", "fqdn", "users", "write_files", "ssh_keys", "ssh_deletekeys", "ssh_pwauth", "runcmd"];

($meta | document) as $meta
| [$meta["instance-id"] // "iid-unknown"] | statement("instance"),
(
  ($vendor | document) * ($user | document)
  | ([.hostname // .fqdn // $meta["local-hostname"] | strings | split(".")[0] | select(. != "")]
     | select(. != []) | statement("hostname")),
    ($net | document | network),
    files("file"; false),
    ([.ssh_deletekeys | yes(false)] | statement("keep-host-keys")),
    host_keys,
    users,
    (.ssh_pwauth | select(. != null) | [yes(true)] | statement("password-logins")),
    files("deferred-file"; true),
    commands,
    (if $user | startswith("#!") then [$user] | statement("script") else empty end),
    (keys - known | .[] | [.] | statement("ignored"))
)
