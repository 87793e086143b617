/** The one script of every page: the site works without the calls server, only calls do not. */
import("./site.js").catch((error) => {
  console.error(error);
  const notice = document.getElementById("notice");
  notice.textContent = "Calls are not available at the moment.";
  notice.classList.add("shown");
});
