// A one-time token stands behind the "#", which no server sees; it is posted at once and taken out of the address.
const fragment = new URLSearchParams(location.hash.slice(1));
const once = fragment.get("once");
document.getElementById("next").value = fragment.get("next") ?? "";
if (once) {
  history.replaceState(null, "", location.pathname);
  document.getElementById("login").hidden = true;
  const form = document.getElementById("once-form");
  form.hidden = false;
  document.getElementById("once").value = once;
  form.requestSubmit();
}
