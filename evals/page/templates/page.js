"use strict";
// A number leads to its answers: everything they are folded into is opened.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let up = target; up; up = up.parentElement) if (up.tagName === "DETAILS") up.open = true;
  target.scrollIntoView({block: "center"});
}
addEventListener("hashchange", reveal);
reveal();

// The theme: that of the system until a reader chooses. Storage may be forbidden; then the choice ends with the page.
const themes = ["auto", "light", "dark"];
const button = document.getElementById("theme");
const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
function choose(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.textContent = "Theme: " + theme;
  try { localStorage.setItem("theme", theme); } catch { /* see above */ }
}
let theme = themes.includes(stored()) ? stored() : "auto";
choose(theme);
button.hidden = false;
button.addEventListener("click", () => {
  theme = themes[(themes.indexOf(theme) + 1) % themes.length];
  choose(theme);
});
