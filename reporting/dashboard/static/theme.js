// Runs before the first paint, so that a chosen theme does not flash. Without a choice the system's is followed.
(() => {
  try {
    const chosen = localStorage.getItem("clickledger-theme");
    if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
  } catch {
    // Storage may be forbidden; then the system's theme it is.
  }
})();
