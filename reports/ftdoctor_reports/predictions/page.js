"use strict";
// Filters what stands in the document; nothing is made here, and nothing that a model wrote is ever parsed.
(() => {
  const one = (id) => document.getElementById(id);
  const [job, step, sample, find] = ["job", "step", "sample", "find"].map(one);
  const value = (input) => (input ? input.value : "");
  const texts = new Map();

  const text = (element) => {
    if (!texts.has(element)) {
      const copy = element.cloneNode(true);
      copy.querySelectorAll("del, .note, summary, .facts").forEach((part) => part.remove());
      texts.set(element, copy.textContent.toLowerCase());
    }
    return texts.get(element);
  };

  const shows = (prediction, wanted) => {
    if (value(step) && prediction.dataset.step !== value(step)) return false;
    if (!wanted) return true;
    const asked = prediction.closest(".sample").querySelector("dl");
    return text(prediction).includes(wanted) || text(asked).includes(wanted);
  };

  const apply = () => {
    const wanted = find.value.trim().toLowerCase();
    let shown = 0;
    let all = 0;
    for (const section of document.querySelectorAll("section[data-job]")) {
      section.hidden = Boolean(value(job)) && section.dataset.job !== value(job);
      for (const article of section.querySelectorAll(".sample")) {
        const chosen = !section.hidden && (!value(sample) || article.dataset.sample === value(sample));
        let any = false;
        for (const prediction of article.querySelectorAll(".prediction")) {
          prediction.hidden = !(chosen && shows(prediction, wanted));
          all += 1;
          shown += prediction.hidden ? 0 : 1;
          any = any || !prediction.hidden;
        }
        article.hidden = !any;
      }
    }
    document.querySelectorAll("details.same").forEach((same) => { same.open = Boolean(value(step)); });
    one("told").textContent = shown === all ? `${all} predictions` : `${shown} of ${all} predictions`;
  };

  const clear = () => {
    [job, step, sample, find].filter(Boolean).forEach((input) => { input.value = ""; });
    apply();
  };

  const follow = () => {
    const target = one(decodeURIComponent(location.hash.slice(1)));
    const found = /^#(?:job-(\d+)-)?(sample--?\d+-)?step-(-?\d+)$/.exec(location.hash);
    if (found && !found[2] && target) {
      clear();
      step.value = found[3];
      if (job && found[1]) job.value = found[1];
      apply();
      (document.querySelector(".sample:not([hidden])") || target).scrollIntoView();
    } else if (target) {
      if (target.closest("[hidden]")) clear();
      target.scrollIntoView();
    }
  };

  const chosen = () => {
    apply();
    const prefix = value(job) > 1 ? `job-${value(job)}-` : "";
    const place = [value(sample) && `sample-${value(sample)}`, value(step) && `step-${value(step)}`].filter(Boolean).join("-");
    history.replaceState(null, "", place ? `#${prefix}${place}` : location.pathname + location.search);
  };

  [job, step, sample].filter(Boolean).forEach((input) => input.addEventListener("change", chosen));
  find.addEventListener("input", apply);
  one("clear").addEventListener("click", () => { clear(); chosen(); });
  window.addEventListener("hashchange", follow);
  window.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target.closest("#filters")) { clear(); chosen(); }
  });
  one("filters").hidden = false;
  apply();
  if (location.hash) window.addEventListener("load", () => setTimeout(follow));
})();
